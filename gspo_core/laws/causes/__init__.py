"""Causes: one difference from the formula that explains the broken laws of a loss, found by comparing it with wrong models."""
