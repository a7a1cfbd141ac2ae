"""Sampler mismatch: weights that correct for a sampling engine whose log-probs differ from the trainer's, and a report."""

from .bounds import Mask, Reject, Truncate
from .correction import (
    GEO_RS,
    ICEPOP,
    MIS,
    TIS,
    Correction,
    GeometricWeight,
    ProductWeight,
    SamplerWeight,
    TokenWeight,
    sampler_weight,
)
from .report import MismatchPart, MismatchReport, mismatch_report

__all__ = [
    "GEO_RS",
    "ICEPOP",
    "MIS",
    "TIS",
    "Correction",
    "GeometricWeight",
    "Mask",
    "MismatchPart",
    "MismatchReport",
    "ProductWeight",
    "Reject",
    "SamplerWeight",
    "TokenWeight",
    "Truncate",
    "mismatch_report",
    "sampler_weight",
]
