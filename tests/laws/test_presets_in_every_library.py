"""Every preset keeps its laws in other libraries than NumPy: in array-api-strict, PyTorch and JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.cells import OF_EVERY_PART
from support.family import MEMBERS, Member, by_member
from support.libraries import JAX, STRICT, TORCH, Library

from gspo_core import GSPO, laws
from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.kit.subject import RawResult

EXTREMES = [
    "finite log-probs give a finite loss and gradient",
    "beyond the overflow guard a bad response still has a gradient",
    "a unit has a gradient on a bound, and none one step of rounding beyond it",
    "float32 stays accurate over 32768 tokens",
    "the contents of padding do not change a single bit of the result",
    "the loss equals numbers computed by hand",
    "the gradient is the paper's",
]
"""Laws that the exp, the sums and the comparisons of a library can break; JAX, slow without jit, is checked only on these."""


@dataclass(frozen=True)
class OnLibrary:
    """A framework of the kit made from a test library: no autodiff, since our losses return their gradient."""

    library: Library

    @property
    def name(self) -> str:
        """Name of the library."""
        return self.library.name

    def evaluate(self, call: Any, inputs: dict[str, Any]) -> RawResult:
        """An eager call."""
        with self.library.precision(np.float64):
            found = call({k: self.library.array(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()})
            return RawResult(*(self.library.numpy(getattr(found, k)) for k in ("value", "logp_grad", "log_ratio", "clipped")))

    def leaks(self, call: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """Empty: no autodiff."""
        return {}

    def counterpart(self, call: Any) -> None:
        """None: no compiler."""

    def changed(self, call: Any, inputs: dict[str, Any]) -> tuple[str, ...]:
        """Compares each array with what it was made of."""
        with self.library.precision(np.float64):
            arrays = {k: self.library.array(x) for k, x in inputs.items() if isinstance(x, np.ndarray)}
            call({**inputs, **arrays})
            return tuple(k for k, x in arrays.items() if not np.array_equal(self.library.numpy(x), inputs[k], equal_nan=True))


@pytest.mark.slow
@by_member
def test_all_laws(member: Member) -> None:
    """By turns in array-api-strict and in PyTorch: family/test_matches_the_papers.py asks each of both for its numbers."""
    library = (STRICT, TORCH)[MEMBERS.index(member) % 2]
    report = laws.check(member.objective, like=member.objective, framework=OnLibrary(library), examples=1)
    assert not report.broken, str(report)
    assert len(report.kept) > 30


@pytest.mark.slow
@pytest.mark.parametrize("member", OF_EVERY_PART, ids=lambda member: member.name)
def test_the_laws_that_a_library_may_break(member: Member) -> None:
    chosen = [named(name) for name in EXTREMES]
    report = laws.check(member.objective, like=member.objective, framework=OnLibrary(JAX), examples=1, laws=chosen)
    assert not report.broken, str(report)
    assert len(report.kept) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("framework", [laws.STRICT, laws.TORCH, laws.JAX], ids=lambda framework: framework.name)
def test_the_kits_own_frameworks(framework: Any) -> None:
    """With autodiff and jit where there are any."""
    report = laws.check(GSPO, framework=framework, examples=1)
    assert not report.broken, str(report)
    assert len(report.kept) > 45
    assert report.framework == framework.name
