"""Metrics on the host, by name: the only place that waits for the device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .ledger import COUNTS, MAXIMA, MINIMA, SUMS, Metrics, read


class Book(NamedTuple):
    """The four vectors on the host, by name."""

    counts: dict[str, np.ndarray]
    sums: dict[str, np.ndarray]
    minima: dict[str, np.ndarray]
    maxima: dict[str, np.ndarray]

    @staticmethod
    def of(metrics: Metrics) -> Book:
        """The entries of metrics by name, on the host. TypeError for anything else."""
        if not isinstance(metrics, Metrics):
            raise TypeError(f"metrics: expected Metrics, got {type(metrics).__name__}")
        columns = (COUNTS, SUMS, MINIMA, MAXIMA)
        return Book(*(read(vector, widths) for vector, widths in zip(metrics, columns, strict=True)))

    def number(self, name: str) -> float:
        """Of counts."""
        return float(self.counts[name][0])

    def total(self, name: str) -> float:
        """Of sums."""
        return float(self.sums[name][0])

    def units(self, name: str) -> float:
        """The objective's own denominator: the counts of layouts without weights, and the sums of weighted ones."""
        return self.number(name) + self.total(f"weighted_{name}")

    def largest(self, name: str) -> float:
        """Of maxima."""
        return float(self.maxima[name][0])
