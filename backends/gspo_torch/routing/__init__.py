"""Recording and replaying the expert choices of mixture-of-experts models."""
