"""Parts of the PyTorch training script."""
