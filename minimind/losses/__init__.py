"""Losses: each a plain function from states or logits to a number."""
