"""Formulas that differ from the right one in one point, by the point in which they differ."""
