"""From hidden states through the LM head to log-probs and losses, without the whole logits."""
