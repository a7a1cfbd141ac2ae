"""A loss that is random is told from one that remembers the batch before, and both from a function."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.laws.causes.unsteady import unsteady
from gspo_core.laws.mutants.mutant import gspo, right
from gspo_core.laws.subjects import subject_of


def said(loss: Any) -> str:
    """The sentence about a loss; empty if there is none."""
    found = unsteady(subject_of(loss))
    return "" if found is None else found.sentence


class Remembers:
    """Uses the old log-probs of the last batch of another kind."""

    def __init__(self) -> None:
        self.level, self.kept = 0.0, 0.0

    def __call__(self, logp: Any, old: Any, a: Any, mask: Any) -> Any:
        """GSPO with advantages that depend on the size of the batch before, if that was another one."""
        level = float(np.abs(a).sum())
        if level != self.level:
            self.level, self.kept = level, self.level
        return gspo(logp, old, a * (1.0 + 0.1 * self.kept), mask)


def test_a_loss_that_draws_numbers_changes_from_call_to_call() -> None:
    rng = np.random.default_rng(0)
    noisy = said(lambda logp, old, a, mask: gspo(logp, old, a * (1 + 0.1 * rng.random()), mask))
    assert noisy.startswith("two calls with the same batch return different losses")


def test_a_loss_that_remembers_another_batch_has_a_sentence_of_its_own() -> None:
    assert said(Remembers()).startswith("the loss of a batch depends on the batch before it")


def test_a_function_is_steady() -> None:
    assert said(gspo) == ""
    assert said(right) == ""
