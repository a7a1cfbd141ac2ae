"""Which importance ratio suits dialogues of several turns."""
