"""Every causal language model of the installed transformers, tiny and random, through the training script: docs/models.md."""
