"""Options of the training scripts: their values, legal ranges, and those of a resumed run."""
