"""Optimizers: Muon for weight matrices, AdamW for the rest, and the learning-rate schedules."""
