"""Measuring models: bits per byte, and answers to questions."""
