"""The wrong formula that the search for causes takes a loss for."""

from __future__ import annotations

from typing import Any

from gspo_core import Objective
from gspo_core.laws.causes.search import answers, suspect_of
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.subjects import subject_of


def explained(loss: Any, like: Objective) -> str:
    """Its sentence; empty if the loss is no formula that the search knows."""
    subject = subject_of(loss)
    setting = Setting(like, subject.claims(like))
    seen = answers(subject, setting)
    found = suspect_of(subject, setting, seen) if seen else None
    return "" if found is None else found.sentence
