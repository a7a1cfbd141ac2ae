"""Random valid calls of `policy_loss` against scalar loops that share no code with it: value, weight, log ratio, clipping."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from support.cases import Batch, core_loss
from support.family import MEMBERS, Member, largest
from support.fuzz.random_batches import random_batch
from support.inputs.arrangements import ARRANGEMENTS
from support.libraries import NUMPY, TORCH, Library

from gspo_core.objectives import Clip

OTHERS = 20
"""One call in so many is PyTorch's, which takes several times as long."""
BEYOND_THE_GUARD = 49.0
"""From log ρ = 50 on exp goes on along its tangent; tests/core/objectives/test_finite_numbers.py has that."""


def member_for(rng: np.random.Generator, batch: Batch) -> Member:
    """A preset; in half of the cases that can take it, with the batch's clip range in place of its own."""
    member = MEMBERS[rng.integers(0, len(MEMBERS))]
    plain = type(member.objective.surrogate) is Clip and member.objective.gate is None
    if not plain or rng.random() < 0.5:
        return member
    return Member("another clip range", member.objective.with_clip(batch.low, batch.high))


def check_one(rng: np.random.Generator) -> str:
    """One call; the name of what it was, or why it was left out."""
    batch = random_batch(rng)
    library: Library = TORCH if rng.integers(0, OTHERS) == 0 else NUMPY
    dtype: Any = np.float32 if rng.random() < 0.4 else np.float64
    batch = batch.rounded(dtype)
    member, arrangement = member_for(rng, batch), ARRANGEMENTS[rng.integers(0, len(ARRANGEMENTS))]
    advantage = member.advantage(batch, bool(rng.integers(0, 2)))
    if largest(batch) >= BEYOND_THE_GUARD:
        return "left out: beyond the guard"
    if not member.is_clear_of_kinks(batch, advantage, max(1e-9, 2 * member.rounding(batch, float(np.finfo(dtype).eps)))):
        return "left out: a decision too close to call"
    loss = core_loss(library, member.objective, batch, advantage, dtype=dtype, arrangement=arrangement)
    assert loss.value.dtype == loss.logp_grad.dtype == dtype
    member.assert_judged(loss, batch, advantage)
    return f"{library.name} {np.dtype(dtype).name}"


def check(seed: int, count: int) -> Counter[str]:
    """`count` calls that were compared, by kind; AssertionError names the seed of the case that fails."""
    done: Counter[str] = Counter()
    case = 0
    while sum(n for kind, n in done.items() if not kind.startswith("left out")) < count:
        try:
            done[check_one(np.random.default_rng([seed, case]))] += 1
        except Exception as error:
            raise AssertionError(f"support.fuzz.valid_calls.check_one(default_rng([{seed}, {case}]))") from error
        case += 1
    return done
