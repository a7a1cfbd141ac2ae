"""Hypothesis strategies for small batches that shrink to readable counterexamples.

Token log ratios are small integers times one of the scales of the setting (the widths of the band among them), so that units
lie inside, outside and just beside the band; rows of the kind "edge" lie exactly on a bound. The mask of a row, its integers
and all advantages are one drawn number each, whose digits are the choices: a batch takes a dozen draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from .batch import Batch
from .claim import Claim
from .setting import Setting

ADVANTAGES = [1.0, -1.0, 2.0, -0.5, 0.0, 0.25, -3.0, 1e-3]
PADDING_VALUES = [1.0, 1e30, -1e30, float("inf"), float("-inf"), float("nan")]
LEVELS = [0.5, 0.9, 1.1, 2.0, -0.5, -0.9, -1.1, -2.0]
STEPS = [0, 1, -1, 2, -2, 3, -3, 4, -4]
KINDS = ["level", "spread", "equal", "beyond", "on policy"]


def digits(number: int, base: int, count: int) -> list[int]:
    """The lowest `count` digits of a number; 0 means the first choice everywhere."""
    return [number // base**i % base for i in range(count)]


def _choices(draw: st.DrawFn, options: int, count: int) -> list[int]:
    return digits(draw(st.integers(0, options**count - 1)), options, count)


def _row(draw: st.DrawFn, setting: Setting, kind: str, width: int) -> list[float]:
    """Token log ratios of one row."""
    low, high = setting.log_bounds
    if kind == "on policy":
        return [0.0] * width
    if kind == "edge":
        return [(high, low)[draw(st.integers(0, 1))]] * width
    if kind == "level":
        level = LEVELS[draw(st.integers(0, len(LEVELS) - 1))]
        return [level * (setting.high if level > 0 else setting.low)] * width
    scale = setting.scales[draw(st.integers(0, len(setting.scales) - 1))]
    if kind == "spread":
        return [scale * STEPS[i] for i in _choices(draw, len(STEPS), width)]
    times = STEPS[draw(st.integers(1, len(STEPS) - 1))]
    return [times * scale * (1.0 if kind == "equal" else 1.0 + 0.25 * t) for t in range(width)]


@st.composite
def batches(
    draw: st.DrawFn,
    setting: Setting,
    *,
    rows: tuple[int, int] = (1, 3),
    width: tuple[int, int] = (1, 4),
    holes: bool = True,
    kinds: list[str] | None = None,
    per_token: bool = False,
    advantages: list[float] | None = None,
) -> Batch:
    """Ragged batches: lengths 0 to T, masked slots anywhere, advantages of both signs and exact zeros.

    Args:
        setting: gives the bounds of the band.
        rows, width: smallest and largest N and T.
        holes: whether slots may be masked.
        kinds: kinds of rows, from KINDS and "edge" (exactly on a bound).
        per_token: draw one advantage per token.
        advantages: the values to choose from.
    """
    num, slots = draw(st.integers(*rows)), draw(st.integers(*width))
    among = kinds or KINDS
    d = np.array([_row(draw, setting, among[k], slots) for k in _choices(draw, len(among), num)]).reshape(num, slots)
    hidden = [digits(h, 2, slots) for h in _choices(draw, 2**slots, num)] if holes else np.zeros((num, slots))
    options = advantages or ADVANTAGES
    shape = (num, slots) if per_token else (num,)
    advantage = np.array([options[i] for i in _choices(draw, len(options), int(np.prod(shape)))]).reshape(shape)
    base = 0.0 if "edge" in among else -float(draw(st.integers(0, 1)))
    return Batch(np.minimum(d, 0.0) + base, base - np.maximum(d, 0.0), advantage, np.array(hidden).reshape(num, slots) == 0)


def any_batches(setting: Setting, **options: Any) -> st.SearchStrategy[Batch]:
    """`batches`, sometimes with one advantage per token if the loss accepts that."""
    if Claim.TOKEN_ADVANTAGES not in setting.claims:
        return batches(setting, **options)
    return st.booleans().flatmap(lambda per_token: batches(setting, per_token=per_token, **options))


def orders(size: int) -> st.SearchStrategy[list[int]]:
    """Permutations of range(size)."""
    return st.permutations(range(size)).map(list)


def partitions(size: int, parts: int = 3) -> st.SearchStrategy[list[int]]:
    """For each of `size` rows the part (micro-batch or rank) that it belongs to; parts may stay empty."""
    return st.lists(st.integers(0, parts - 1), min_size=size, max_size=size)
