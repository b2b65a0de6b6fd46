"""The one training loop, its checkpoints and its metrics. It knows no stage, no evaluation and no engine."""
