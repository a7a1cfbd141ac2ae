"""Metrics: mergeable statistics of a batch, numbers read from them, and sentences that say what is wrong."""

from .batch import batch_metrics
from .clips import ClipCell, clip_counts, clip_share
from .diagnosis import Finding, FindingKind, Thresholds, diagnose
from .engines import sampler_metrics
from .groups import group_metrics
from .ledger import Metrics, merge
from .left_out import left_out_metrics
from .policies import entropy_metrics, reference_metrics
from .readings import summary

__all__ = [
    "ClipCell",
    "Finding",
    "FindingKind",
    "Metrics",
    "Thresholds",
    "batch_metrics",
    "clip_counts",
    "clip_share",
    "diagnose",
    "entropy_metrics",
    "group_metrics",
    "left_out_metrics",
    "merge",
    "reference_metrics",
    "sampler_metrics",
    "summary",
]
