"""Hypothesis draws of small batches that shrink to something a person can read.

Everything is drawn piece by piece, so that a failing batch shrinks to one or two short sequences with round numbers.
Token log ratios are small integers times one of the scales of the setting (the band's own among them), so that units fall
inside, outside, and just beside the band; "edge" rows stand on a bound exactly.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from .batch import Batch
from .setting import Setting

ADVANTAGES = [1.0, -1.0, 2.0, -0.5, 0.0, 0.25, -3.0, 1e-3]
POISONS = [1.0, 1e30, -1e30, float("inf"), float("-inf"), float("nan")]
LEVELS = [0.5, 0.9, 1.1, 2.0, -0.5, -0.9, -1.1, -2.0]
KINDS = ["level", "spread", "equal", "beyond", "on policy"]


def _row(draw: st.DrawFn, setting: Setting, kind: str, width: int) -> list[float]:
    """Token log ratios of one row."""
    low, high = setting.log_bounds
    if kind == "on policy":
        return [0.0] * width
    if kind == "edge":
        return [draw(st.sampled_from([high, low]))] * width
    if kind == "level":
        level = draw(st.sampled_from(LEVELS))
        return [level * (setting.high if level > 0 else setting.low)] * width
    scale = draw(st.sampled_from(setting.scales))
    if kind == "spread":
        return [scale * draw(st.integers(-4, 4)) for _ in range(width)]
    times = draw(st.integers(1, 4)) * draw(st.sampled_from([1.0, -1.0]))
    return [times * scale * (1.0 if kind == "equal" else 1.0 + 0.25 * t) for t in range(width)]


@st.composite
def batches(
    draw: st.DrawFn,
    setting: Setting,
    *,
    rows: tuple[int, int] = (1, 4),
    width: tuple[int, int] = (1, 4),
    holes: bool = True,
    kinds: list[str] | None = None,
    per_token: bool = False,
    advantages: list[float] | None = None,
    scale: float = 1.0,
) -> Batch:
    """Ragged batches: lengths 0 to T, holes, advantages of both signs and exact zeros.

    Args:
        setting: where the band is.
        rows, width: smallest and largest N and T.
        holes: whether slots may be masked.
        kinds: of rows, among KINDS and "edge" (exactly on a bound).
        per_token: one advantage per token.
        advantages: what they are chosen from.
        scale: all log ratios times this.
    """
    num, slots = draw(st.integers(*rows)), draw(st.integers(*width))
    each = [_row(draw, setting, draw(st.sampled_from(kinds or KINDS)), slots) for _ in range(num)]
    d = scale * np.array(each, dtype=np.float64).reshape(num, slots)
    mask = np.ones((num, slots), dtype=bool)
    if holes:
        mask = ~np.array([draw(_hidden(slots)) for _ in range(num)], dtype=bool).reshape(num, slots)
    shape = (num, slots) if per_token else (num,)
    chosen = st.sampled_from(advantages or ADVANTAGES)
    advantage = np.array([draw(chosen) for _ in range(int(np.prod(shape)))]).reshape(shape)
    base = draw(st.sampled_from([0.0, -1.0])) if kinds is None or "edge" not in kinds else 0.0
    return Batch(np.minimum(d, 0.0) + base, base - np.maximum(d, 0.0), advantage, mask)


@st.composite
def _hidden(draw: st.DrawFn, width: int) -> list[bool]:
    """Which slots of a row are masked: none, the right, the left, some, or all."""
    kind = draw(st.sampled_from(["none", "right", "some", "left", "all"]))
    if kind in ("none", "all"):
        return [kind == "all"] * width
    if kind == "some":
        return [draw(st.booleans()) for _ in range(width)]
    count = draw(st.integers(0, width))
    return [t < count if kind == "left" else t >= width - count for t in range(width)]


def orders(size: int) -> st.SearchStrategy[list[int]]:
    """Permutations of range(size)."""
    return st.permutations(range(size)).map(list)


def partitions(size: int, parts: int = 3) -> st.SearchStrategy[list[int]]:
    """Which part (micro-batch, rank) each of `size` things belongs to; parts may stay empty."""
    return st.lists(st.integers(0, parts - 1), min_size=size, max_size=size)
