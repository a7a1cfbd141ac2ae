"""Which objectives and corrections keep the training of a mixture-of-experts model stable."""
