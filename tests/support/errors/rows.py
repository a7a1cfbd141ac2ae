"""Wrong calls of the core, one row per error: options that are values, layouts, and what goes into them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from support.errors.places import Row

import gspo_core as g
from gspo_core import Clip, Objective, Packed, Padded, Sequence, SequenceMean, Token, Turns
from gspo_core.layouts import Restricted, Weighted, next_tokens

T, V = TypeError, ValueError
MASK, ZEROS, ONES = np.ones((2, 3), dtype=bool), np.zeros((2, 3)), np.ones(2)
IDS, LAYOUT = np.zeros((2, 3), dtype=int), Padded(MASK)
TURNS = Turns(LAYOUT, IDS, 4)
ROUTER = np.zeros((2, 3, 1, 2))


def next_of(**wrong: Any) -> Callable[[], Any]:
    """The predicting slots of one sequence of three tokens, with some arguments replaced."""
    return lambda: next_tokens(**{"token_ids": IDS[0], "cu_seqlens": np.array([0, 3]), "mask": MASK[0], **wrong})


class HalfMean:
    """A reduction that does not say what a single sequence counts for."""

    sums_tokens = False

    def __repr__(self) -> str:
        return "HalfMean()"

    def count(self, layout: Any) -> Any:
        """[] a number."""
        return 2 * SequenceMean().count(layout)

    def weights(self, layout: Any, per_token: bool, denominator: Any) -> Any:
        """Units."""
        return 2 * SequenceMean().weights(layout, per_token, denominator)


class Foreign:
    """An array of no library of ours."""


class NoTurnWeights:
    """A reduction of one's own that knows nothing of turns."""

    sums_tokens = False

    def weights(self, *_: Any) -> None:
        """For sequences alone."""


NUMBERS: list[Row] = [
    Row(T, ("low: expected a number, got '0.2' (str)",), lambda: Clip("0.2", 0.2)),
    Row(T, ("high: expected a number, got None",), lambda: Clip(0.2, None)),
    Row(V, ("high: expected a number within the range of a float", "401 digits"), lambda: Clip(0.2, 10**400)),
    Row(V, ("num_sequences: expected a whole number of at least 0 and at most 9", "401"), lambda: Packed(IDS[0], 10**400)),
    Row(T, ("high: expected a number", "has no real number that can be read here"), lambda: Clip(0.2, np.asarray(2j))),
    Row(T, ("low: expected a number, got array",), lambda: Clip(ONES, 0.2)),
    Row(T, ("low: expected a number, got True",), lambda: g.objectives.GateOnly(True, 0.2)),
    Row(V, ("low: expected a clip width in [0, 1)", "got 1.0"), lambda: Clip(1.0, 0.2)),
    Row(V, ("low: expected a clip width in [0, 1)", "got -0.1"), lambda: g.objectives.GateOnly(-0.1, 0.2)),
    Row(V, ("high: expected a finite clip width of at least 0", "got nan"), lambda: Clip(0.2, math.nan)),
    Row(T, ("cap: expected a number",), lambda: g.objectives.DualClip(0.2, 0.2, "3")),
    Row(V, ("cap: expected a finite ratio above 1", "got 1.0"), lambda: g.objectives.DualClip(0.2, 0.2, 1.0)),
    Row(T, ("tau_pos: expected a number",), lambda: g.objectives.SoftGate("1")),
    Row(V, ("tau_neg: expected a positive finite number", "got 0"), lambda: g.objectives.SoftGate(1.0, 0)),
    Row(V, ("lam_neg: expected a positive finite number", "got inf"), lambda: g.objectives.GammaWeight(lam_neg=math.inf)),
    Row(V, ("cap: expected a finite ratio of at least 1", "got 0.5"), lambda: g.objectives.TruncatedWeight(0.5)),
    Row(V, ("floor: expected a ratio in [0, 1]", "got 2"), lambda: g.objectives.TruncatedWeight(5.0, 2)),
    Row(T, ("floor: expected a number",), lambda: g.objectives.TruncatedWeight(5.0, None)),
    Row(V, ("low: expected a clip width in [0, 1)", "got 1"), lambda: g.objectives.ReciprocalWeight(1, 0.2, 3.0)),
    Row(V, ("high: expected a finite clip width of at least 0", "got -1"), lambda: g.objectives.ReciprocalWeight(0.2, -1, 3.0)),
    Row(V, ("cap: expected a finite weight above 1", "got inf"), lambda: g.objectives.ReciprocalWeight(0.2, 0.2, math.inf)),
    Row(T, ("cap: expected a number",), lambda: g.objectives.ReciprocalWeight(0.2, 0.2, "3")),
    Row(V, ("floor: expected a ratio in (0, 1)", "got 0.0"), lambda: g.objectives.BandWeight(0.0, 5.0)),
    Row(V, ("cap: expected a finite ratio above 1", "got inf"), lambda: g.objectives.BandWeight(0.5, math.inf)),
    Row(T, ("cap: expected a number",), lambda: g.objectives.BandWeight(0.5, "5")),
    Row(V, ("cap: expected a positive finite ratio", "got 0.0"), lambda: g.objectives.TaperedWeight(0.0)),
    Row(T, ("low: expected a number",), lambda: g.objectives.TokenClip("a", 0.4)),
    Row(V, ("high: expected a finite width in nats of at least 0", "got -0.4"), lambda: g.objectives.TokenClip(0.4, -0.4)),
    Row(V, ("width: expected a finite width in nats of at least 0", "got inf"), lambda: g.objectives.Band(math.inf)),
    Row(V, ("length_power: expected a number in [0, 1]", "got 2.0"), lambda: g.objectives.Band(0.1, 2.0)),
    Row(T, ("length_power: expected a number",), lambda: g.objectives.Band(0.1, "half")),
    Row(V, ("width: expected a positive finite number", "got 0.0"), lambda: g.objectives.LogGain(0.0)),
    Row(V, ("delta: expected a finite width in nats of at least 0", "got nan"), lambda: g.objectives.OffPolicyMask(math.nan)),
    Row(T, ("high: expected a number",), lambda: g.mismatch.Truncate("2")),
    Row(V, ("low: expected a weight between 0 and 1", "got 1.5"), lambda: g.mismatch.Mask(1.5, 2.0, drop=False)),
    Row(V, ("high: expected a weight of at least 1", "got 0.5"), lambda: g.mismatch.Truncate(0.5)),
    Row(
        V,
        ("low, high: expected a bound on at least one side", "got 0 and inf, which do nothing"),
        lambda: g.mismatch.Reject(0.0, math.inf, drop=True),
    ),
    Row(T, ("drop: expected True or False", "got 'no'"), lambda: g.mismatch.Mask(0.5, 2.0, drop="no")),
    Row(T, ("drop: expected True or False", "got 1"), lambda: g.mismatch.Reject(0.5, 2.0, drop=1)),
    Row(V, ("ddof: expected a whole number of at least 0 and at most 1", "got 2"), lambda: g.advantages.ZScore(2)),
    Row(V, ("ddof: expected a whole number of at least 0 and at most 1", "got True"), lambda: g.advantages.BatchStd(True)),
    Row(V, ("eps: expected a finite number of at least 0", "got -1e-06"), lambda: g.advantages.ZScore(0, -1e-6)),
    Row(T, ("eps: expected a number",), lambda: g.advantages.BatchStd(0, "small")),
    Row(V, ("low: expected a difference of probabilities in (0, 1]", "got 0.0"), lambda: g.objectives.TotalVariation(0.0)),
    Row(V, ("high: expected a positive finite divergence in nats", "got inf"), lambda: g.objectives.BinaryKL(0.1, math.inf)),
    Row(V, ("length: expected a whole number of at least 1", "got 2.5"), lambda: g.objectives.FixedLength(2.5)),
    Row(V, ("length: expected a whole number of at least 1", "got True"), lambda: g.objectives.FixedLength(True)),
    Row(V, ("kappa: expected a finite number of at least 0", "got -1"), lambda: g.clip_range.Drift.of(-1)),
    Row(T, ("design_effect: expected a number",), lambda: g.clip_range.Drift.of(1e-3, "one")),
]

CHOICES: list[Row] = [
    Row(
        T,
        ("ratio: expected a value, got the class Sequence", "write Sequence(...)"),
        lambda: Objective(Sequence, Clip(0.2, 0.2), SequenceMean()),
    ),
    Row(
        T, ("ratio: expected a ratio such as Sequence()", "got 'seq'"), lambda: Objective("seq", Clip(0.2, 0.2), SequenceMean())
    ),
    Row(
        T,
        ("surrogate: expected a surrogate such as Clip(3e-4, 4e-4)", "got Token()"),
        lambda: Objective(Sequence(), Token(), SequenceMean()),
    ),
    Row(
        T,
        ("reduction: expected a reduction such as SequenceMean()", "got None"),
        lambda: Objective(Sequence(), Clip(0.2, 0.2), None),
    ),
    Row(
        T,
        ("gate: expected a gate such as TokenClip(0.4, 0.4), or None", "got 'band'"),
        lambda: Objective(Sequence(), Clip(0.2, 0.2), SequenceMean(), "band"),
    ),
    Row(
        T,
        (
            "reduction: TokenMean() weighs tokens",
            "Sequence() has one ratio per sequence",
            "Use SequenceMean()",
            "SequenceToken()",
        ),
        lambda: Objective(Sequence(), Clip(0.2, 0.2), g.TokenMean()),
    ),
    Row(
        T,
        ("reduction: TokenMean() weighs tokens", "one ratio per turn", "Use SequenceMean() or TurnMean()", "TurnToken()"),
        lambda: Objective(g.objectives.Turn(), Clip(0.2, 0.2), g.TokenMean()),
    ),
    Row(
        T,
        ("reduction: TurnMean() weighs turns", "one ratio per sequence", "Use SequenceMean()", "Turn()"),
        lambda: Objective(Sequence(), Clip(0.2, 0.2), g.objectives.TurnMean()),
    ),
    Row(
        T,
        ("reduction: ", "has no turn_weights, which Turn() needs", "Use SequenceMean() or TurnMean()"),
        lambda: Objective(g.objectives.Turn(), Clip(0.2, 0.2), NoTurnWeights()),
    ),
    Row(
        V,
        ("per_token: TokenMean() expected a ratio whose units are tokens", "got one whose units are sequences"),
        lambda: g.TokenMean().weights(LAYOUT, False, np.asarray(1.0)),
    ),
    Row(
        V,
        ("per_token: TurnMean() expected a ratio whose units are turns or tokens", "got one whose units are sequences"),
        lambda: g.objectives.TurnMean().weights(TURNS, False, np.asarray(1.0)),
    ),
    Row(
        T,
        ("level: expected TokenWeight(), ProductWeight() or", "got 'token'"),
        lambda: g.mismatch.Correction("token", g.mismatch.Truncate(2.0)),
    ),
    Row(
        T,
        ("action: expected a value, got the class Mask", "write Mask(...)"),
        lambda: g.mismatch.Correction(g.mismatch.TokenWeight(), g.mismatch.Mask),
    ),
]

LAYOUTS: list[Row] = [
    Row(T, ("mask: expected an array", "got list"), lambda: Padded([[True]])),
    Row(T, ("mask: expected a boolean array", "float64", "write mask > 0"), lambda: Padded(ZEROS)),
    Row(V, ("mask: expected shape [N, T]", "got [3]"), lambda: Padded(MASK[0])),
    Row(T, ("segment_ids: expected integers", "got dtype float64"), lambda: Packed(np.zeros(3), 2)),
    Row(V, ("segment_ids: expected shape [T]", "got [2, 3]"), lambda: Packed(IDS, 2)),
    Row(V, ("num_sequences: expected a whole number of at least 0", "got -1"), lambda: Packed(IDS[0], -1)),
    Row(V, ("num_sequences: expected a whole number of at least 0", "got True"), lambda: Packed(IDS[0], True)),
    Row(T, ("cu_seqlens: expected integers", "got dtype float64"), lambda: Packed.from_cu_seqlens(np.zeros(3), 2)),
    Row(
        V,
        ("cu_seqlens: expected offsets that ascend", "num_tokens = 8", "got 0 to 8", "with 5 before 3"),
        lambda: Packed.from_cu_seqlens(np.array([0, 5, 3, 8]), 8),
    ),
    Row(V, ("prompt_lengths: expected numbers of at least 0", "got -1"), next_of(mask=None, prompt_lengths=np.array([-1]))),
    Row(V, ("cu_seqlens: expected shape [N + 1]", "got [0]"), lambda: Packed.from_cu_seqlens(np.zeros(0, dtype=int), 2)),
    Row(
        V,
        ("num_tokens: expected a whole number of at least 0", "got 2.5"),
        lambda: Packed.from_cu_seqlens(np.array([0, 2]), 2.5),
    ),
    Row(
        T,
        ("mask: expected a boolean array", "float64", "write mask > 0"),
        lambda: Packed.from_cu_seqlens(np.array([0, 2]), 2, ONES),
    ),
    Row(V, ("mask: expected shape [2]", "got [3]"), lambda: Packed.from_cu_seqlens(np.array([0, 2]), 2, MASK[0])),
    Row(T, ("token_ids: expected integers", "got dtype float64"), next_of(token_ids=ZEROS[0])),
    Row(V, ("token_ids: expected shape [T]", "got [2, 3]", "flatten a batch of rows first"), next_of(token_ids=IDS)),
    Row(V, ("mask: expected either mask or prompt_lengths", "got neither"), next_of(mask=None)),
    Row(V, ("mask: expected either mask or prompt_lengths", "got both"), next_of(prompt_lengths=IDS[0, :1])),
    Row(T, ("prompt_lengths: expected integers", "got dtype float64"), next_of(mask=None, prompt_lengths=ONES[:1])),
    Row(V, ("prompt_lengths: expected shape [1]", "got [3]"), next_of(mask=None, prompt_lengths=IDS[0])),
    Row(V, ("x: expected shape [3]", "got [2]"), lambda: next_of()().shifted(ONES)),
    Row(T, ("layout: expected a layout such as Padded(mask)", "got ndarray"), lambda: g.sharded(MASK, lambda x: x)),
    Row(T, ("layout: expected a layout such as Padded(mask)", "got the class Padded"), lambda: g.sharded(Padded, lambda x: x)),
    Row(T, ("sum_over_shards: expected a function", "got int"), lambda: g.sharded(LAYOUT, 3)),
    Row(T, ("sum_over_shards: expected a function", "got the class list"), lambda: g.sharded(LAYOUT, list)),
    Row(
        T,
        ("sum_over_shards: expected a function that returns an array", "got NoneType"),
        lambda: g.sharded(LAYOUT, lambda _: None),
    ),
    Row(
        V,
        ("sum_over_shards: expected a function that returns [2]", "got []"),
        lambda: g.sharded(LAYOUT, np.sum),
    ),
    Row(T, ("kept: expected a boolean array", "float64", "write kept > 0"), lambda: Restricted(LAYOUT, ZEROS)),
    Row(V, ("kept: expected the layout's shape [2, 3]", "got [3]"), lambda: Restricted(LAYOUT, MASK[0])),
    Row(T, ("weights: expected real numbers", "got dtype bool"), lambda: Weighted(LAYOUT, ONES > 0)),
    Row(V, ("weights: expected shape [2]", "got [3]"), lambda: Weighted(LAYOUT, ZEROS[0])),
    Row(V, ("weights: expected finite numbers of at least 0", "got -1.0"), lambda: Weighted(LAYOUT, -ONES)),
    Row(V, ("weights: expected finite numbers of at least 0", "got nan"), lambda: Weighted(LAYOUT, ONES * math.nan)),
    Row(V, ("weights: expected finite numbers of at least 0", "got inf"), lambda: Weighted(LAYOUT, ONES * math.inf)),
    Row(
        T,
        ("reduction: HalfMean() has no counts(layout)", "Weighted", "Use SequenceMean()"),
        lambda: Objective(Sequence(), Clip(0.1, 0.2), HalfMean()).count(Weighted(LAYOUT, ONES)),
    ),
    Row(T, ("turn_ids: expected integers", "got dtype float64"), lambda: Turns(LAYOUT, ZEROS, 2)),
    Row(V, ("turn_ids: expected the layout's shape [2, 3]", "got [3]"), lambda: Turns(LAYOUT, IDS[0], 2)),
    Row(V, ("num_turns: expected a whole number of at least 1", "got 0"), lambda: Turns(LAYOUT, IDS, 0)),
    Row(T, ("layout: expected a layout such as Padded(mask)", "got ndarray"), lambda: g.GSPO.count(MASK)),
]
