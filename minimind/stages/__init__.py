"""The stages of making a model, each one file that reads from top to bottom as its lesson."""
