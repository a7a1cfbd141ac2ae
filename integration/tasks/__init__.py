"""Questions, how they are put to a model, and how they are kept apart."""
