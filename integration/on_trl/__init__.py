"""The training script inside TRL."""
