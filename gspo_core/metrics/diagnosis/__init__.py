"""`diagnose`: what a run's metrics mean, in sentences."""

from .findings import Finding, FindingKind
from .judgement import diagnose
from .thresholds import Thresholds

__all__ = ["Finding", "FindingKind", "Thresholds", "diagnose"]
