"""Parts that both training scripts use."""
