"""Algebra of a response's ratio: it is a geometric mean, and ratios multiply along a chain of policies."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import ROUNDINGS, same_value
from gspo_core.laws.kit.law import Law, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import Subject

Numbers = list[float]
NEEDS = {Claim.MEAN_RATIO, Claim.UNBOUNDED, Claim.SEQUENCE_MEAN}


def _numbers(low: int, high: int, unit: float) -> st.SearchStrategy[Numbers]:
    return st.lists(st.integers(low, high).map(lambda k: k * unit), min_size=2, max_size=3)


@law(
    "a response's ratio lies between the harmonic and the arithmetic mean of its token ratios",
    source="docs/theory.md, D1: AM − s = s Var_t(d)/2 + O(|d|³), and s − HM likewise",
    otherwise="the ratio is a median, a power mean or another average, not the geometric mean",
    needs=NEEDS,
    cases=lambda setting: st.tuples(_numbers(0, 5, 1.0), st.sampled_from([0.5, 0.1, 0.01])),
    anchors=lambda setting: [([0.0, 0.0, 1.0], 0.01), ([0.0, 1.0], 0.5)],
)
def means(subject: Subject, setting: Setting, case: tuple[Numbers, float]) -> bool:
    """A = −1 and d ≥ 0, which is never clipped: the loss is s, and lies s Var_t(d)/2 from either mean."""
    d = np.array(case[0]) * case[1]
    batch = Batch.of([d.tolist()], [-1.0])
    found = subject(batch)
    up, down = float(np.exp(d).mean()), float(1.0 / np.exp(-d).mean())
    slack = ROUNDINGS * found.eps * up
    between = min(max(found.value, down - slack), up + slack)
    demand(found.value, between, 0.0, f"the loss, where the means are {down:.9g} and {up:.9g},", batch)
    off = np.abs(d - d.mean()).max(initial=0.0)
    half = 0.5 * float(d.var()) * math.exp(d.mean())
    # The third cumulant over six, and the fourth order over 24 with room for the variance squared.
    third = math.exp(d.max(initial=0.0) + off) * (off**3 / 6.0 + off**4) + slack
    demand(up - found.value, half, third, "the arithmetic mean less the loss, against half the variance,", batch)
    demand(found.value - down, half, third, "the loss less the harmonic mean, against half the variance,", batch)
    return bool(off)


@law(
    "ratios multiply along a chain of policies",
    source="docs/theory.md, D3: s(a → c) = s(a → b) s(b → c), and s(a → b) s(b → a) = 1",
    otherwise="the ratio is an approximation around 1, or depends on the size of the log-probs themselves",
    needs=NEEDS,
    cases=lambda setting: st.tuples(
        _numbers(0, 3, 0.25), _numbers(0, 3, 0.5), st.sampled_from([0.0, -1.0, -8.0]), st.sampled_from([0, 1])
    ),
    anchors=lambda setting: [([0.5, 0.25], [0.5, 0.0], base, back) for base in (0.0, -8.0) for back in (0, 1)],
)
def chain(subject: Subject, setting: Setting, case: tuple[Numbers, Numbers, float, int]) -> bool:
    """s(a → c) = s(a → b) s(b → c) for steps upwards with A = −1, and s(a → b) s(b → a) = 1; these sides are never clipped."""
    first, second, base, back = case
    length = min(len(first), len(second))
    a, b = np.array(first[:length]), np.array(second[:length])

    def loss(d: np.ndarray, sign: float, start: float) -> float:
        batch = Batch.of([d.tolist()], [-sign], base=start)
        return sign * subject(batch).value

    whole, step = (np.zeros(length), -a) if back else (a + b, b)
    product = loss(a, 1.0, base) * loss(step, -1.0 if back else 1.0, base - 0.5)
    batch = Batch.of([whole.tolist()], [-1.0])
    note = f"a → b → {'a' if back else 'c'}, log ratios {a.tolist()} and {step.tolist()}; required: the product of both losses"
    same_value(subject(batch), product, setting, batch, "the loss from a to the end of the chain", note)
    return bool(a.any() and step.any())


RATIO_ALGEBRA: list[Law] = [means, chain]
