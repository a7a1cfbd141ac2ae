"""Advantages, sampler weights, KL terms, turns and selections are NumPy's on every library, eager and compiled.

In either precision. That NumPy's are right is said by the files of each; here the question is whether another library gives
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.budgets import REL64, assert_within, float32_budget
from support.cells import IN_PAIRS, OF_EVERYTHING_ELSE
from support.inputs.arrangements import PACKED, PADDED, Arrangement, Ready
from support.inputs.one_shape import MASKS, N, T
from support.libraries import COMPILED_JAX, JAX, NUMPY, Library

from gspo_core import TIS, SequenceMean, TokenKL, TokenMean, group_advantages, kl_penalty, sampler_weight
from gspo_core.advantages import (
    BatchStd,
    BestOfGroup,
    Centred,
    LeaveOneOut,
    LengthWeighted,
    MaxRL,
    ZScore,
    decoupled_advantages,
    reward_to_go,
    turn_advantages,
)
from gspo_core.kl import K1, K2, K3, KAbs, SequenceK2, SequenceKL
from gspo_core.layouts import Layout
from gspo_core.mismatch import GEO_RS, ICEPOP, MIS
from gspo_core.objectives import BinaryKL, TotalVariation
from gspo_core.selection import (
    inside_region,
    kept_advantages,
    token_covariance,
    top_share,
    within_second_moment,
)

NORMALISERS = [ZScore(), ZScore(ddof=1, eps=1e-4), BatchStd(), Centred(), LeaveOneOut(), MaxRL(), BestOfGroup()]
SINGLE_KL = [K1(), K2(), K3(), KAbs()]


def advantages(_: Layout, rewards: Any, more: Any, ids: Any, valid: Any) -> tuple[Any, ...]:
    """Every normaliser, with and without invalid rewards, and two rewards at once."""
    each = [group_advantages(rewards, ids, normaliser) for normaliser in NORMALISERS]
    isolated = [group_advantages(rewards, ids, normaliser, valid=valid) for normaliser in NORMALISERS]
    by_length = group_advantages(rewards, ids, LengthWeighted(more), valid=valid)
    return (*each, *isolated, by_length, decoupled_advantages([rewards, more], ids, [1.0, 0.5]))


def weights(layout: Layout, old: Any, sampler: Any) -> tuple[Any, ...]:
    """The four named corrections: weights per token, per token, per sequence, per sequence; and what is left."""
    found = [sampler_weight(correction, old, sampler, layout) for correction in (TIS, ICEPOP, MIS, GEO_RS)]
    return (*(x for w in found for x in (w.weight, w.raw, w.kept)), found[-1].layout.lengths())


def divergences(layout: Layout, logp: Any, ref: Any, old: Any) -> tuple[Any, ...]:
    """Every estimator; means over tokens where its units are tokens."""
    found = [kl_penalty(k, logp, ref, layout, reduction=TokenMean()) for k in SINGLE_KL]
    found += [
        kl_penalty(SequenceK2(), logp, ref, layout, reduction=SequenceMean()),
        kl_penalty(TokenKL(), logp, ref, layout, reduction=TokenMean(), old_logp=old),
        kl_penalty(SequenceKL(), logp, ref, layout, reduction=SequenceMean(), old_logp=old),
    ]
    return tuple(x for k in found for x in (k.value, k.logp_grad))


def turns(layout: Layout, values: Any, ids: Any) -> tuple[Any, ...]:
    """What turns led to, at the tokens of each turn."""
    return (turn_advantages(reward_to_go(values), ids, layout),)


def selections(layout: Layout, logp: Any, old: Any, advantage: Any) -> tuple[Any, ...]:
    """Regions and choices of tokens. FIPO's weights know the order of tokens: selection/test_future.py."""
    covariance = token_covariance(logp, advantage, layout)
    top = top_share(covariance, layout, 0.25)
    return (
        inside_region(TotalVariation(0.01, 0.01), logp, old, advantage, layout),
        inside_region(BinaryKL(1e-3, 1e-3, either_side=True), logp, old, advantage, layout),
        within_second_moment(logp, old, layout, 5e-3),
        covariance,
        top,
        kept_advantages(advantage, top, layout).values,
    )


class Task(NamedTuple):
    """A function, what it gets, and which of its results have a token axis."""

    f: Callable[..., tuple[Any, ...]]
    arrays: list[np.ndarray]
    at_tokens: tuple[bool, ...]


def tasks() -> dict[str, Task]:
    """Floating-point inputs are float32 numbers, so that both precisions compute the same."""
    rng = np.random.default_rng(0)
    old = -rng.exponential(size=(N, T))
    mask = MASKS["holes"]
    logp, ref, sampler = (np.where(mask, old + scale * rng.normal(size=(N, T)), np.nan) for scale in (0.1, 0.2, 0.4))
    sampler[0] = old[0] + 5e-4
    rewards, more = rng.integers(0, 3, (2, N)) / 2.0
    ids = np.array([7, 7, 7, -5, -5, 2, 7, -5])
    token_weight, sequence_weight = (True, True, True), (False, False, False)
    inputs = {
        "advantages": (advantages, [rewards, more, ids, rng.random(N) < 0.7], (False,) * (2 * len(NORMALISERS) + 2)),
        "weights": (weights, [old, sampler], (*token_weight * 2, *sequence_weight * 2, False)),
        "divergences": (divergences, [logp, ref, old], (False, True) * 7),
        "turns": (turns, [rng.normal(size=(N, 3)), rng.integers(0, 3, (N, T))], (True,)),
        "selections": (selections, [logp, old, rng.normal(size=N)], (True,) * 6),
    }
    return {name: Task(f, [_single(x) for x in arrays], tokens) for name, (f, arrays, tokens) in inputs.items()}


def _single(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32).astype(np.float64) if x.dtype == np.float64 else x


TASKS = tasks()
WAYS: list[tuple[Arrangement, type]] = [(PADDED, np.float32), (PACKED, np.float64)]


def cells_of(library: Library) -> list[tuple[str, Arrangement, type]]:
    """Every task both ways; in a library that is slow at a new shape one way, by turns from task to task and library."""
    if library not in IN_PAIRS:
        return [(name, *way) for name in TASKS for way in WAYS]
    shift = IN_PAIRS.index(library)
    return [(name, *WAYS[(i + shift) % 2]) for i, name in enumerate(TASKS)]


CELLS = [
    pytest.param(
        library,
        name,
        arrangement,
        dtype,
        id=f"{library.name}-{name}-{arrangement}-{dtype.__name__}",
        marks=[pytest.mark.slow] if library in IN_PAIRS else [],
    )
    for library in OF_EVERYTHING_ELSE
    for name, arrangement, dtype in cells_of(library)
]


@pytest.mark.parametrize(("library", "name", "arrangement", "dtype"), CELLS)
def test_it_is_numpys(library: Library, name: str, arrangement: Arrangement, dtype: type) -> None:
    f, arrays, at_tokens = TASKS[name]
    given = [x.astype(dtype) if x.dtype == np.float64 else x for x in arrays]
    found = Ready(library, arrangement, f, at_tokens)(MASKS["holes"], *given)
    expected = Ready(NUMPY, PADDED, f, at_tokens)(MASKS["holes"], *arrays)
    # A sequence's log ratio is a sum of T terms; every result is at most a few exponentials and sums of N of them later.
    relative = float32_budget(N + T, 3.0) if dtype == np.float32 else 10 * REL64
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == (dtype if e.dtype == np.float64 else e.dtype) or e.dtype.kind == "i"
        assert_within(a, e, relative * np.max(np.abs(e), initial=1.0))


def test_each_task_goes_both_ways_in_jax() -> None:
    """Once operation by operation, once compiled."""
    assert all({cells_of(library)[i][1:] for library in (JAX, COMPILED_JAX)} == set(WAYS) for i in range(len(TASKS)))


def test_the_tasks_have_something_to_say() -> None:
    """Guard: nothing is all zero or all one; every correction keeps and drops something."""
    for task in TASKS.values():
        for x in Ready(NUMPY, PADDED, task.f, task.at_tokens)(MASKS["holes"], *task.arrays):
            assert x.ndim == 0 or len(np.unique(x)) > 1
