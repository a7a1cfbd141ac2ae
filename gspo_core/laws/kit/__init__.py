"""What a law, a loss under test and a verdict are."""
