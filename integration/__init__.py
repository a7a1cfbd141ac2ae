"""Training scripts and studies: `train_torch.py` and `train_jax.py` train a language model end to end."""
