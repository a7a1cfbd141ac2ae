"""Controlled experiments, one folder each."""
