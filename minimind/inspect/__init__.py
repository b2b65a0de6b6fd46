"""The looking-glass: what a model of one's own computes on the way to its answer, and how it came to."""
