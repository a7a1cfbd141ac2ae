"""Rewards of answers: verifiers in a process of their own, which no answer can end, hang or leave."""
