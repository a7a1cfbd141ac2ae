"""Every preset keeps its laws on other libraries than NumPy: on one that knows only the standard, on torch, on JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.family import Member, by_member
from support.libraries import JAX, STRICT, TORCH, Library

from gspo_core import GSPO, laws
from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.kit.subject import Answer

EXTREMES = [
    "finite log-probs give a finite loss and gradient",
    "beyond the guard a bad response is still pushed down",
    "on a bound a unit is live, one step of rounding beyond it is silent",
    "32768 tokens in float32 lose less than a hundredth of the paper's band",
    "padding does not change a bit",
    "the numbers computed by hand come out",
    "the gradient is the paper's",
]
"""What a library's own exp, sums and comparisons decide; JAX, which is slow without jit, is asked only these here."""


@dataclass(frozen=True)
class OnLibrary:
    """A framework of the kit, made of a line in the table of libraries: no autodiff, our losses bring their gradient."""

    library: Library

    @property
    def name(self) -> str:
        """The library's."""
        return self.library.name

    def outcome(self, call: Any, inputs: dict[str, Any]) -> Answer:
        """Eager."""
        with self.library.precision(np.float64):
            found = call({k: self.library.array(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()})
            return Answer(*(self.library.numpy(getattr(found, k)) for k in ("value", "logp_grad", "log_ratio", "clipped")))

    def leaks(self, call: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """Nothing can leak."""
        return {}

    def counterpart(self, call: Any) -> None:
        """Never."""


@by_member
@pytest.mark.parametrize("library", [STRICT, TORCH], ids=lambda library: library.name)
def test_all_laws(member: Member, library: Library) -> None:
    report = laws.check(member.objective, like=member.objective, framework=OnLibrary(library), examples=2)
    assert not report.broken, str(report)
    assert len(report.kept) > 30


@by_member
def test_the_laws_that_a_library_may_break(member: Member) -> None:
    chosen = [named(name) for name in EXTREMES]
    report = laws.check(member.objective, like=member.objective, framework=OnLibrary(JAX), examples=1, laws=chosen)
    assert not report.broken, str(report)
    assert len(report.kept) >= 4


@pytest.mark.parametrize("framework", [laws.STRICT, laws.TORCH, laws.JAX], ids=lambda framework: framework.name)
def test_the_kits_own_frameworks(framework: Any) -> None:
    """With autodiff and jit where there are any."""
    report = laws.check(GSPO, framework=framework, examples=2)
    assert not report.broken, str(report)
    assert len(report.kept) > 45
    assert report.framework == framework.name
