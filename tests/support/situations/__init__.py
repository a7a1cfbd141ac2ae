"""Constructed situations, each with exactly the findings that `diagnose` must make of it: all others it must not make."""

from .builders import Situation
from .of_gradients import NO_GRADIENT, ONE_FOR_ALL
from .of_numbers import NOT_FINITE, POSITIVE_NUMBERS, UNLIKE
from .of_ratios import RATIOS
from .of_samplers import SAMPLERS

SITUATIONS: list[Situation] = [*RATIOS, *SAMPLERS, *NO_GRADIENT, *POSITIVE_NUMBERS, *ONE_FOR_ALL, *NOT_FINITE, *UNLIKE]
"""Where two give the same finding, the first one's sentence is the example in docs/troubleshooting.md."""

__all__ = ["SITUATIONS", "Situation"]
