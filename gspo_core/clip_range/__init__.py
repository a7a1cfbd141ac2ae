"""The clip range: chosen for a wanted share of clipped responses from a few rollouts, and predicted back."""

from .advice import ClipFraction, DriftLaw, LengthBin, clip_fraction_for, clip_range_for, clip_table, measured_clip_fraction
from .drift import BySign, Drift, Tails, estimate_drift
from .pilot import Pilot

__all__ = [
    "BySign",
    "ClipFraction",
    "Drift",
    "DriftLaw",
    "LengthBin",
    "Pilot",
    "Tails",
    "clip_fraction_for",
    "clip_range_for",
    "clip_table",
    "estimate_drift",
    "measured_clip_fraction",
]
