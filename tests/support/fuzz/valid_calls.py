"""Random valid calls of `policy_loss` against scalar loops that share no code with it: value, weight, log ratio, clipping.

A call of JAX's is compiled, once per preset and precision: every batch has the same shape there. A call with weights of
sequences is judged as the batch in which each row is repeated as often as its weight says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from support.cases import Batch, core, core_loss
from support.family import MEMBERS, Member, largest
from support.fuzz.random_batches import random_batch
from support.inputs.arrangements import ARRANGEMENTS
from support.libraries import COMPILED_JAX, NUMPY, TORCH, Library

from gspo_core import Loss, Padded, policy_loss
from gspo_core.layouts import Weighted
from gspo_core.objectives import Clip

BEYOND_THE_GUARD = 49.0
"""From log ρ = 50 on exp goes on along its tangent; tests/core/objectives/test_finite_numbers.py has that."""


def member_for(rng: np.random.Generator, batch: Batch) -> Member:
    """A preset; in half of the cases that can take it, with the batch's clip range in place of its own."""
    member = MEMBERS[rng.integers(0, len(MEMBERS))]
    plain = type(member.objective.surrogate) is Clip and member.objective.gate is None
    if not plain or rng.random() < 0.5:
        return member
    return Member("another clip range", member.objective.with_clip(batch.low, batch.high))


class Call(NamedTuple):
    """A call that is to be judged."""

    name: str
    member: Member
    batch: Batch
    """What the oracle is asked about."""
    advantage: np.ndarray
    loss: Callable[[], Loss]


def plain(rng: np.random.Generator, batch: Batch, dtype: Any, library: Library = NUMPY) -> Call:
    """In any layout."""
    member, arrangement = member_for(rng, batch), ARRANGEMENTS[rng.integers(0, len(ARRANGEMENTS))]
    advantage = member.advantage(batch, bool(rng.integers(0, 2)))

    def loss() -> Loss:
        return core_loss(library, member.objective, batch, advantage, dtype=dtype, arrangement=arrangement)

    return Call(library.name, member, batch, advantage, loss)


@cache
def jax_loss(number: int, per_token: bool) -> Callable[..., Loss]:
    """The loss of a preset in JAX, compiled for one shape in either precision."""
    return core(COMPILED_JAX, MEMBERS[number].objective, per_token=per_token)


def compiled(rng: np.random.Generator, batch: Batch, dtype: Any) -> Call:
    """In JAX, with empty rows and masked columns: 8 and 12 in all."""
    number, spare = int(rng.integers(0, len(MEMBERS))), [8 - batch.mask.shape[0], 12 - batch.mask.shape[1]]
    names = ("logp", "old_logp", "mask", "advantage", "token_advantage")
    grown = {name: np.pad(x, [(0, n) for n in spare[: x.ndim]]) for name in names for x in [getattr(batch, name)]}
    batch = replace(batch, **grown)
    advantage = MEMBERS[number].advantage(batch, bool(rng.integers(0, 2)))

    def loss() -> Loss:
        return jax_loss(number, advantage.ndim == 2)(batch, advantage, dtype)

    return Call(COMPILED_JAX.name, MEMBERS[number], batch, advantage, loss)


def weighted(rng: np.random.Generator, batch: Batch, dtype: Any) -> Call:
    """With a weight for each sequence: the batch in which it is repeated as often."""
    member, copies = member_for(rng, batch), rng.integers(0, 4, len(batch.mask))
    copies[rng.integers(0, len(copies))] += 1
    rows = np.repeat(np.arange(len(copies)), copies)
    advantage = member.advantage(batch, bool(rng.integers(0, 2)))

    def loss() -> Loss:
        arrays = (x.astype(dtype) for x in (batch.logp, batch.old_logp, advantage))
        found = policy_loss(member.objective, *arrays, Weighted(Padded(batch.mask), copies))
        shares = found.logp_grad[rows] / copies[rows].astype(dtype)[:, None]
        return Loss(found.value, shares, found.log_ratio[rows], found.clipped[rows], found.denominator, False)

    return Call("weighted numpy", member, batch.rows(rows), advantage[rows], loss)


def torch_call(rng: np.random.Generator, batch: Batch, dtype: Any) -> Call:
    """In PyTorch, in any layout."""
    return plain(rng, batch, dtype, TORCH)


OTHERS: list[Callable[..., Call]] = [torch_call, compiled, weighted, weighted]
"""One call in twenty for each entry; all others are NumPy's. PyTorch and JAX take several times as long."""


def check_one(rng: np.random.Generator) -> str:
    """One call; the name of what it was, or why it was left out."""
    dtype: Any = np.float32 if rng.random() < 0.4 else np.float64
    batch, which = random_batch(rng).rounded(dtype), int(rng.integers(0, 20))
    call = (OTHERS[which] if which < len(OTHERS) else plain)(rng, batch, dtype)
    if largest(batch) >= BEYOND_THE_GUARD:
        return "left out: beyond the guard"
    close = max(1e-9, 2 * call.member.rounding(call.batch, float(np.finfo(dtype).eps)))
    if not call.member.is_clear_of_kinks(call.batch, call.advantage, close):
        return "left out: a decision too close to call"
    loss = call.loss()
    assert loss.value.dtype == loss.logp_grad.dtype == dtype
    call.member.assert_judged(loss, call.batch, call.advantage)
    return f"{call.name} {np.dtype(dtype).name}"


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
