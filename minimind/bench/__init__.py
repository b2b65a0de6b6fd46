"""Measurements of speed, side by side with what people use instead, in one process."""
