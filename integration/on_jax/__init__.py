"""Parts of the JAX training script."""
