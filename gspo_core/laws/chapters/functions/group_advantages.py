"""Group advantages: functions (rewards [N], group_ids [N]) ↦ advantages [N]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gspo_core.advantages.normalisers import Centred, LeaveOneOut, Normaliser, ZScore
from gspo_core.laws.kit.law import Law, demand, law
from gspo_core.laws.kit.subject import LossError


@dataclass(frozen=True, eq=False)
class Rewards:
    """Rewards of N responses, and the group of each."""

    reward: list[float]
    group: list[int]

    @property
    def mask(self) -> Any:
        """[N, 1], so that the size of a counterexample is counted as for batches."""
        return np.ones((len(self.reward), 1), dtype=bool)

    def __str__(self) -> str:
        """Rewards and groups on one line."""
        return f"rewards {self.reward}, groups {self.group}"


@dataclass(frozen=True)
class AdvantageSetting:
    """The normaliser that an advantage function should implement."""

    like: Normaliser
    claims: frozenset[Any] = frozenset()


@dataclass(frozen=True, eq=False)
class AdvantageFunction:
    """An advantage function under test."""

    name: str
    fn: Callable[[Any, Any], Any]
    convert: Callable[[Any], Any] = field(default=np.asarray)
    """From a NumPy array to the arrays that the function expects."""

    def __call__(self, case: Rewards) -> Any:
        """[N] advantages in float64 NumPy."""
        try:
            reward, group = np.array(case.reward, dtype=np.float64), np.array(case.group, dtype=np.int64)
            with np.errstate(all="ignore"):
                return np.asarray(self.fn(self.convert(reward), self.convert(group)), dtype=np.float64)
        except (Exception, SystemExit) as error:  # whatever the function under test raises
            raise LossError(case, error) from error


def expected(like: Normaliser, case: Rewards) -> list[float] | None:
    """The advantages in exact fractions (but for the root of a z-score); None for a normaliser without a formula here."""
    out = []
    for reward, mine in zip(case.reward, case.group, strict=True):
        group = [Fraction(r) for r, other in zip(case.reward, case.group, strict=True) if other == mine]
        deviation = Fraction(reward) - sum(group) / len(group)
        squares = float(sum((r - sum(group) / len(group)) ** 2 for r in group))
        if not squares:
            out.append(0.0)
        elif isinstance(like, ZScore):
            out.append(float(deviation) / (math.sqrt(squares / (len(group) - like.ddof)) + like.eps))
        elif isinstance(like, Centred):
            out.append(float(deviation))
        elif isinstance(like, LeaveOneOut):
            out.append(float(deviation * Fraction(len(group), len(group) - 1)))
        else:
            return None
    return out


def drawn(setting: Any, most: int = 5) -> st.SearchStrategy[Rewards]:
    """Up to `most` responses of two groups in any order, with rewards that are multiples of 1/4."""
    pair = st.tuples(st.integers(0, 4).map(lambda k: k / 4), st.sampled_from([7, 3]))
    return st.lists(pair, min_size=1, max_size=most).map(lambda x: Rewards([r for r, _ in x], [g for _, g in x]))


def same(actual: Any, wanted: Any, what: str, case: Rewards, note: str = "") -> None:
    """Requires advantages within 1e-9, enough for sums of a few quarters, one root and one quotient in float64."""
    demand(actual, wanted, 1e-9 * (1.0 + np.max(np.abs(wanted), initial=0.0)), what, case, note)


@law(
    "the advantages are those of the stated normaliser",
    source="docs/theory.md, F1 to F4 and F7; GSPO eq. 6",
    otherwise="another mean, another standard deviation (divided by G or G − 1), or eps in another place",
    cases=drawn,
    anchors=lambda _: [Rewards([1.0, 0.0], [7, 7])],
)
def stated(subject: AdvantageFunction, setting: AdvantageSetting, case: Rewards) -> bool:
    """For a z-score: (r − mean)/(std + eps) with std² = Σ(r − mean)²/(G − ddof), in exact fractions."""
    wanted = expected(setting.like, case)
    if wanted is None:
        return False
    same(subject(case), wanted, "the advantages", case)
    return any(wanted)


@law(
    "a constant group has advantage 0",
    source="docs/theory.md, F5; a rounding error that became ±1: NeMo-RL#4158",
    otherwise="a rounding error of the mean is divided by a standard deviation of nearly 0, or 0 by 0",
    cases=lambda _: st.tuples(st.sampled_from([0.95, 1 / 3, 1e8, 0.1, 0.0, -2.7]), st.integers(1, 8)),
    anchors=lambda _: [(0.7, 1), (0.5, 2), (0.1, 3), (1 / 3, 5), (0.95, 8), (1e8, 2)],
)
def constant(subject: AdvantageFunction, setting: AdvantageSetting, case: tuple[float, int]) -> bool:
    """Equal rewards, or a single response: exactly 0, not NaN."""
    group = Rewards([case[0]] * case[1], [7] * case[1])
    demand(subject(group), np.zeros(case[1]), 0.0, "the advantages", group)
    return True


@law(
    "a group's advantages do not depend on other groups",
    source="GSPO eq. 6: mean and std of the group; std over the batch: grpo-flat#2",
    otherwise="rewards of other prompts change the advantages of a group",
    cases=lambda setting: st.tuples(drawn(setting, 4), st.integers(-4, 4).map(float)),
    anchors=lambda _: [(Rewards([1.0, 0.0], [7, 7]), 4.0)],
)
def groups(subject: AdvantageFunction, setting: AdvantageSetting, case: tuple[Rewards, float]) -> bool:
    """One more response, to another prompt and with any reward, changes no other advantage."""
    own, far = case
    more = Rewards([*own.reward, far], [*own.group, 99])
    same(
        subject(more)[: len(own.reward)],
        subject(own),
        "the advantages of the other responses",
        more,
        "required: the result without the last response",
    )
    return len(set(own.reward)) > 1


@law(
    "adding a constant to all rewards does not change the advantages",
    source="docs/theory.md, F2: A(r + c) = A(r)",
    otherwise="the mean of the group is not subtracted",
    cases=lambda setting: st.tuples(drawn(setting), st.sampled_from([1.0, -2.0, 0.5])),
    anchors=lambda _: [(Rewards([1.0], [7]), 1.0), (Rewards([1.0, 0.0], [7, 7]), 1.0)],
)
def shifted(subject: AdvantageFunction, setting: AdvantageSetting, case: tuple[Rewards, float]) -> bool:
    """A(r + c) = A(r)."""
    moved = Rewards([r + case[1] for r in case[0].reward], case[0].group)
    same(
        subject(moved),
        subject(case[0]),
        "the advantages",
        moved,
        f"required: the result before {case[1]:g} was added to all rewards",
    )
    return True


@law(
    "the order of the responses does not change the advantages",
    source="docs/theory.md, F6: groups need be neither contiguous nor of equal size",
    otherwise="groups are formed by position and not by group id",
    cases=lambda setting: drawn(setting).flatmap(lambda r: st.tuples(st.just(r), st.permutations(range(len(r.reward))))),
    anchors=lambda _: [(Rewards([1.0, 0.0, 0.5, 0.25], [7, 7, 3, 3]), [0, 2, 1, 3])],
)
def order(subject: AdvantageFunction, setting: AdvantageSetting, case: tuple[Rewards, list[int]]) -> bool:
    """Permuting the responses permutes the advantages."""
    old, new = case
    mixed = Rewards([old.reward[i] for i in new], [old.group[i] for i in new])
    same(
        subject(mixed),
        subject(old)[list(new)],
        "the advantages",
        mixed,
        f"responses in the order {list(new)}; required: the permuted result",
    )
    return list(new) != sorted(new)


ADVANTAGE_LAWS: tuple[Law, ...] = (stated, constant, groups, shifted, order)
