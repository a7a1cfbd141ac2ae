"""What a loss does with the denominator that it is given is told by its losses of one and of two responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gspo_core.laws.causes.inputs.denominators import denominator
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants.mutant import LIKE, WITH_DENOMINATOR, gspo
from gspo_core.laws.subjects import subject_of

Used = Callable[[float, Any], float | None]
USES: dict[str, Used] = {
    "": lambda given, _: given,
    "the given denominator is ignored": lambda *_: None,
    "a denominator of 1 is not used as it is: the sum is divided by 2 in its place": lambda given, _: max(2.0, given),
    "the loss is 0.25 times the sum divided by it": lambda given, _: 4.0 * given,
    "two responses are divided by 2 times it": lambda given, mask: given * mask.any(axis=1).sum(),
}


@pytest.mark.parametrize("words", USES, ids=lambda words: words or "as it is")
def test_each_use_has_its_own_words(words: str) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any, denominator: float | None = None) -> Any:
        return gspo(logp, old, a, mask, denominator and USES[words](denominator, mask))

    subject = subject_of(loss, names=WITH_DENOMINATOR)
    found = denominator(subject, Setting(LIKE, subject.claims(LIKE)))
    assert (found is None) == (not words)
    assert found is None or words in found.sentence
