"""Profiles and report cards: measuring what a loss does, and writing it down."""
