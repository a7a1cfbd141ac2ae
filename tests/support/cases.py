"""The presets beside their oracles, random ragged batches, and one way to run the core on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from support.inputs.arrangements import PADDED, Arrangement, Ready
from support.libraries import Library

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Loss, Objective, PerToken, TokenMean, policy_loss
from gspo_core.laws.kit.oracle import ScalarLoss, scalar_loss
from gspo_core.layouts import Layout

POISONS = [np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0]
CLIPS = [(3e-4, 4e-4), (0.2, 0.27), (0.0, 0.0), (0.9, 5.0)]
ROW_KINDS = ["scaled", "constant", "on policy", "at low", "at high"]


@dataclass(frozen=True)
class Case:
    """A preset, judged by the scalar loops of the laws."""

    name: str
    preset: Objective
    per_token: bool


CASES = [
    Case("GSPO", GSPO, False),
    Case("GSPO_TOKEN", GSPO_TOKEN, True),
    Case("GRPO", GRPO, True),
]


@dataclass(frozen=True)
class Batch:
    """A padded batch in float64 NumPy, masked slots poisoned."""

    logp: np.ndarray
    old_logp: np.ndarray
    mask: np.ndarray
    advantage: np.ndarray
    """[N]."""
    token_advantage: np.ndarray
    """[N, T]."""
    low: float
    high: float

    def with_clip(self, preset: Objective) -> Objective:
        """The preset with this batch's clip range."""
        return preset.with_clip(self.low, self.high)

    def advantages(self, per_token: bool) -> np.ndarray:
        """Per token or per sequence."""
        return self.token_advantage if per_token else self.advantage

    def judged(
        self, case: Case, advantage: np.ndarray | None = None, over_tokens: bool = False, denominator: float | None = None
    ) -> ScalarLoss:
        """The oracle's verdict with this batch's clip range; [N] advantages are copied to every token."""
        advantage = self.advantage if advantage is None else advantage
        if advantage.ndim == 1:
            advantage = np.repeat(advantage[:, None], self.mask.shape[1], axis=1)
        objective = self.with_clip(case.preset)
        objective = replace(objective, reduction=TokenMean()) if over_tokens else objective
        rows = (self.logp.tolist(), self.old_logp.tolist(), advantage.tolist(), self.mask.tolist())
        return scalar_loss(objective, *rows, denominator)

    def rounded(self, dtype: Any) -> Batch:
        """What survives a cast to dtype, in float64 again."""
        arrays = ("logp", "old_logp", "advantage", "token_advantage")
        return replace(self, **{name: getattr(self, name).astype(dtype).astype(np.float64) for name in arrays})

    def rows(self, index: Any) -> Batch:
        """Some of the sequences."""
        arrays = ("logp", "old_logp", "mask", "advantage", "token_advantage")
        return replace(self, **{name: getattr(self, name)[index] for name in arrays})

    def clean(self) -> Batch:
        """Zeros instead of poison, for formulas that multiply by the mask."""
        empty = ~self.mask.any(axis=1)
        return replace(
            self,
            logp=np.where(self.mask, self.logp, 0.0),
            old_logp=np.where(self.mask, self.old_logp, 0.0),
            token_advantage=np.where(self.mask, self.token_advantage, 0.0),
            advantage=np.where(empty, 0.0, self.advantage),
        )

    def poisoned(self, poison: float) -> Batch:
        """The same batch with other rubbish in its masked slots."""
        empty = ~self.mask.any(axis=1)
        return replace(
            self,
            logp=np.where(self.mask, self.logp, poison),
            old_logp=np.where(self.mask, self.old_logp, -poison),
            token_advantage=np.where(self.mask, self.token_advantage, poison),
            advantage=np.where(empty, poison, self.advantage),
        )

    def distance_to_kinks(self, case: Case, hits: bool = False) -> float:
        """Smallest |log ratio − log bound| over the units; exact hits (distance 0) count only if asked for."""
        units = np.asarray(self.judged(case).log_ratio, dtype=np.float64)[
            self.mask if case.per_token else self.mask.any(axis=1)
        ]
        gaps = np.abs(units[:, None] - np.log1p([self.high, -self.low])[None, :])
        return float(np.min(gaps[(gaps > 0) | hits], initial=np.inf))


def core(
    library: Library, objective: Objective, arrangement: Arrangement = PADDED, per_token: bool = False, **options: Any
) -> Callable[..., Loss]:
    """(batch, advantage, dtype) ↦ the core's loss on one library in one layout, as padded NumPy arrays; compiled once."""

    def loss(layout: Layout, logp: Any, old: Any, advantage: Any) -> tuple[Any, ...]:
        # Two axes say by themselves that they are tokens.
        said = PerToken(advantage) if per_token and len(layout.shape) == 1 else advantage
        return tuple(policy_loss(objective, logp, old, said, layout, **options)[:-1])

    units = objective.ratio.per_token
    ready = Ready(library, arrangement, loss, (False, True, units, units, False))

    def run(batch: Batch, advantage: np.ndarray, dtype: Any = np.float64) -> Loss:
        return Loss(*ready(batch.mask, *(x.astype(dtype) for x in (batch.logp, batch.old_logp, advantage))), False)

    return run


def core_loss(
    library: Library, objective: Objective, batch: Batch, advantage: np.ndarray | None = None, **options: Any
) -> Loss:
    """The same for one batch, in float64 unless `dtype` says otherwise."""
    dtype = options.pop("dtype", np.float64)
    advantage = batch.advantage if advantage is None else advantage
    return core(library, objective, per_token=advantage.ndim == 2, **options)(batch, advantage, dtype)


def _row(rng: np.random.Generator, kind: str, width: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """(logp, old_logp) of one row. On the bounds one of the two is 0, so that their difference is the bound exactly."""
    if kind == "at low":
        return np.full(width, np.log1p(-low)), np.zeros(width)
    if kind == "at high":
        return np.zeros(width), np.full(width, -np.log1p(high))
    old = -(10.0 ** rng.uniform(-3, 1, width))
    scale = 10.0 ** rng.uniform(-6, 1)
    if kind == "on policy":
        return old.copy(), old
    return old + scale * rng.normal(size=None if kind == "constant" else width), old


def _mask(rng: np.random.Generator, kind: str, num: int, width: int) -> np.ndarray:
    lengths = rng.integers(0, width + 1, size=num)[:, None]
    slots = np.arange(width)[None, :]
    masks = {
        "right": slots < lengths,
        "left": slots >= width - lengths,
        "holes": rng.random((num, width)) < rng.random((num, 1)),
        "full": np.ones((num, width), dtype=bool),
        "none": np.zeros((num, width), dtype=bool),
    }
    return masks[kind]


def _advantages(rng: np.random.Generator, size: Any) -> np.ndarray:
    """Both signs and, in a fifth, an exact zero."""
    return rng.normal(size=size) * 10.0 ** rng.uniform(-2, 1) * (rng.random(size) > 0.2)


@st.composite
def batches(draw: st.DrawFn, edges: bool = True, max_tokens: int = 9) -> Batch:
    """Ragged batches: lengths 0..T, holes, left padding, poison, both signs and zeros, log ratios from 1e-6 to 10.

    With `edges`, rows of up to three tokens may stand exactly on a clip bound (three equal numbers have one rounded sum,
    in whatever order they are added).
    """
    num, width = draw(st.integers(1, 8)), draw(st.integers(0, max_tokens))
    low, high = draw(st.sampled_from(CLIPS))
    kinds = draw(st.lists(st.sampled_from(ROW_KINDS if edges else ROW_KINDS[:3]), min_size=num, max_size=num))
    padding = draw(st.sampled_from(["right", "left", "holes", "full", "none"]))
    poison = draw(st.sampled_from(POISONS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = _mask(rng, padding, num, width)
    for i, kind in enumerate(kinds):
        if kind.startswith("at "):
            mask[i] &= np.cumsum(mask[i]) <= 3
    rows = [_row(rng, kind, width, low, high) for kind in kinds]
    token_advantage = _advantages(rng, (num, width))
    batch = Batch(
        np.stack([row[0] for row in rows]),
        np.stack([row[1] for row in rows]),
        mask,
        _advantages(rng, num),
        token_advantage,
        low,
        high,
    )
    return batch.poisoned(poison)
