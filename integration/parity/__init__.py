"""Twenty reference updates, and the comparison of both training scripts with them."""
