"""Reinforcement learning: answers are sampled, scored and made into batches for the one training loop."""
