"""What a loss does with one more input: reference or sampler log-probs, or a denominator."""

from __future__ import annotations

from collections.abc import Callable

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import Subject

from .corrections import correction
from .denominators import denominator
from .penalties import penalty

MEASURED: dict[str, Callable[[Subject, Setting], Suspect | None]] = {
    "kl": penalty,
    "sampler": correction,
    "micro_batches": denominator,
}
"""Chapters about one more input, and what measures what a loss does with it."""
