"""One notion of a number: wherever a function takes one, Python, NumPy scalars and 0-d arrays are taken or refused alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import array_api_strict
import gspo_torch
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gspo_core as g
from gspo_core import GSPO, Clip, Packed, Padded, Turns, advantages, clip_range, kl, metrics, mismatch, objectives, selection
from gspo_core.routing import router_shift

MASK, ZEROS, IDS, ROUTER = np.ones((2, 3), dtype=bool), np.zeros((2, 3)), np.zeros((2, 3), dtype=int), np.ones((2, 3, 1, 2))
HEAD: tuple[Any, ...] = (torch.ones(2, 3, 4), torch.ones(5, 4), torch.zeros(2, 3, dtype=torch.int64))
LAW, BOOK = clip_range.Drift.of(2e-4), g.group_metrics(np.ones(2), IDS[:, 0])
Taking = Callable[[Any], Any]


class Argument(NamedTuple):
    """A function of one of its numbers, a number that it takes, and numbers that it refuses."""

    call: Taking
    good: float
    bad: tuple[float, ...]


def loss_on(array: Taking, divisor: Any) -> Any:
    """The loss of two responses on some library."""
    x, ones = array(ZEROS.astype(np.float32)), array(np.ones(2, dtype=np.float32))
    return float(g.policy_loss(GSPO, x, x, ones, Padded(array(MASK)), denominator=divisor).value)


def scored(**options: Any) -> Any:
    """Log-probs of a head."""
    return gspo_torch.token_logp(*HEAD, **options).tolist()


NAN, INF = math.nan, math.inf
REALS = {
    "Clip.low": Argument(lambda x: Clip(x, 0.5), 0.25, (-0.5, 1.0, NAN)),
    "Clip.high": Argument(lambda x: Clip(0.5, x), 0.25, (-0.5, INF, NAN)),
    "DualClip.cap": Argument(lambda x: objectives.DualClip(0.5, 0.5, x), 3.0, (1.0, INF, NAN)),
    "GateOnly.low": Argument(lambda x: objectives.GateOnly(x, 0.5), 0.25, (1.0,)),
    "SoftGate.tau_neg": Argument(lambda x: objectives.SoftGate(1.0, x), 2.0, (0.0, NAN)),
    "TruncatedWeight.floor": Argument(lambda x: objectives.TruncatedWeight(5.0, x), 0.5, (2.0, NAN)),
    "ReciprocalWeight.cap": Argument(lambda x: objectives.ReciprocalWeight(0.2, 0.2, x), 3.0, (1.0, NAN)),
    "BandWeight.floor": Argument(lambda x: objectives.BandWeight(x, 2.0), 0.5, (0.0, 1.0, NAN)),
    "LogGain.width": Argument(objectives.LogGain, 2.0, (0.0, INF, NAN)),
    "TaperedWeight.cap": Argument(objectives.TaperedWeight, 2.0, (0.0, INF, NAN)),
    "GammaWeight.lam_neg": Argument(lambda x: objectives.GammaWeight(lam_neg=x), 2.0, (0.0, INF)),
    "TokenClip.low": Argument(lambda x: objectives.TokenClip(x, 0.5), 0.25, (-0.5, NAN)),
    "Band.length_power": Argument(lambda x: objectives.Band(0.5, x), 0.25, (2.0, NAN)),
    "OffPolicyMask.delta": Argument(objectives.OffPolicyMask, 0.25, (-0.5, INF)),
    "Truncate.high": Argument(mismatch.Truncate, 2.0, (0.5, NAN)),
    "Mask.low": Argument(lambda x: mismatch.Mask(x, 2.0, drop=False), 0.5, (1.5, NAN)),
    "Reject.high": Argument(lambda x: mismatch.Reject(0.5, x, drop=True), 2.0, (0.5, NAN)),
    "TotalVariation.low": Argument(objectives.TotalVariation, 0.25, (0.0, 1.5, NAN)),
    "BinaryKL.high": Argument(lambda x: objectives.BinaryKL(0.1, x), 0.25, (0.0, INF, NAN)),
    "future_kl_advantages.half_life": Argument(
        lambda x: selection.future_kl_advantages(ZEROS, ZEROS, ZEROS[:, 0], Padded(MASK), half_life=x).values.tolist(),
        4.0,
        (0.0, INF, NAN),
    ),
    "top_share.share": Argument(lambda x: selection.top_share(ZEROS, Padded(MASK), x).tolist(), 0.5, (0.0, 1.5, NAN)),
    "within_second_moment.threshold": Argument(
        lambda x: selection.within_second_moment(ZEROS, ZEROS, Padded(MASK), x).tolist(), 0.5, (0.0, INF, NAN)
    ),
    "ZScore.eps": Argument(lambda x: advantages.ZScore(0, x), 0.5, (-0.5, INF)),
    "decoupled_advantages.weights": Argument(
        lambda x: advantages.decoupled_advantages([[1.0, 0.0]], [0, 0], [x]).tolist(), 2.0, (NAN, INF)
    ),
    "router_shift.floor": Argument(
        lambda x: router_shift(ROUTER, 3 * ROUTER, Padded(MASK), floor=x).tolist(), 0.5, (0.0, 1.0, NAN)
    ),
    "Drift.of.kappa": Argument(clip_range.Drift.of, 0.5, (-0.5, NAN)),
    "clip_range_for.target": Argument(lambda x: g.clip_range_for(x, LAW, [10]), 0.25, (0.0, 1.0, NAN)),
    "clip_range_for.high_over_low": Argument(lambda x: g.clip_range_for(0.25, LAW, [10], high_over_low=x), 2.0, (0.0, INF)),
    "clip_share.low": Argument(lambda x: metrics.clip_share(BOOK, x, 0.5), 0.25, (1.0, NAN)),
    "KLTerm.coefficient, NumPy": Argument(lambda x: kl.KLTerm(kl.K3(), ZEROS, x).coefficient, -0.5, (NAN, INF)),
    "denominator, NumPy": Argument(lambda x: loss_on(np.asarray, x), 4.0, (0.0, -2.0, NAN, INF)),
    "token_logp.temperature": Argument(lambda x: scored(temperature=x), 0.5, (0.0, -1.0, INF, NAN)),
    "token_logp.soft_cap": Argument(lambda x: scored(soft_cap=x), 2.0, (0.0, NAN)),
}
WHOLES = {
    "Packed.num_sequences": Argument(lambda x: Packed(IDS[0], x).num_sequences, 2, (-1,)),
    "Packed.from_cu_seqlens": Argument(lambda x: Packed.from_cu_seqlens(np.array([0, 2]), x).shape, 3, (-1,)),
    "Turns.num_turns": Argument(lambda x: Turns(Padded(MASK), IDS, x).num_turns, 2, (0,)),
    "FixedLength.length": Argument(objectives.FixedLength, 10, (0,)),
    "BatchStd.ddof": Argument(advantages.BatchStd, 1, (-1, 2)),
    "VocabularyShard.start": Argument(lambda x: gspo_torch.VocabularyShard(x, 7, None).start, 3, (-1, 8)),
}
OF_REALS: list[tuple[str, Taking]] = [
    ("float", float),
    ("np.float32", np.float32),
    ("np.float64", np.float64),
    ("np.float16", np.float16),
    ("numpy 0-d", np.asarray),
    ("torch", torch.tensor),
    ("torch with a graph", lambda x: torch.tensor(x, requires_grad=True)),
    ("torch bfloat16", lambda x: torch.tensor(x, dtype=torch.bfloat16)),
    ("jax", jnp.asarray),
    ("strict", array_api_strict.asarray),
]
OF_WHOLES: list[tuple[str, Taking]] = [
    ("int", int),
    ("np.int8", np.int8),
    ("np.int64", np.int64),
    ("numpy 0-d", np.asarray),
    ("torch", torch.tensor),
    ("jax", jnp.asarray),
    ("strict", array_api_strict.asarray),
]
NO_NUMBERS: list[Any] = [
    "1",
    None,
    True,
    np.bool_(True),
    np.ones(1),
    torch.ones(1),
    [1.0],
    1j,
    np.asarray(1j),
    torch.tensor(True),
]


@pytest.mark.parametrize("name", REALS)
def test_every_kind_of_real_number_is_taken_alike(name: str) -> None:
    """The numbers here have few bits: no dtype rounds them. A whole one may be a Python or NumPy integer."""
    call, good, bad = REALS[name]
    expected = call(good)
    kinds = [*OF_REALS, *(OF_WHOLES if good == int(good) else [])]
    for kind, make in kinds:
        assert call(make(good)) == expected, kind
        for number in bad if (kind, make) in OF_REALS else ():
            with pytest.raises(ValueError, match="expected"):
                call(make(number))


@pytest.mark.parametrize("name", WHOLES)
def test_every_kind_of_integer_is_taken_alike(name: str) -> None:
    call, good, bad = WHOLES[name]
    expected = call(good)
    for kind, make in OF_WHOLES:
        assert call(make(good)) == expected, kind
        for number in bad:
            with pytest.raises(ValueError, match="expected a whole number"):
                call(make(number))
    for fraction in (2.5, np.float64(1.0), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="expected a whole number"):
            call(fraction)


@pytest.mark.parametrize("name", [*REALS, *WHOLES])
def test_what_is_no_number_is_refused(name: str) -> None:
    call, *_ = {**REALS, **WHOLES}[name]
    for wrong in NO_NUMBERS:
        if wrong is None and name in {"token_logp.soft_cap", "denominator, NumPy"}:
            continue
        with pytest.raises((TypeError, ValueError), match=r"^\w+: expected"):
            call(wrong)


def test_what_is_kept_is_a_python_number() -> None:
    """So that an objective stays hashable, and equal ones share a compilation."""
    for kind, make in OF_REALS:
        clip = Clip(make(0.25), make(0.5))
        assert (type(clip.low), type(clip.high)) == (float, float), kind
        assert hash(GSPO.with_clip(make(0.25), make(0.5))) == hash(GSPO.with_clip(0.25, 0.5)), kind


@pytest.mark.parametrize("array", [np.asarray, torch.tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_a_denominator_of_any_kind_is_checked(array: Taking) -> None:
    kinds = [float, int, np.float32, np.int64, np.asarray, array]
    assert len({loss_on(array, make(4)) for make in kinds}) == 1
    for make in kinds:
        for number in (0, -2):
            with pytest.raises(ValueError, match=r"^denominator: expected a positive finite number"):
                loss_on(array, make(number))
