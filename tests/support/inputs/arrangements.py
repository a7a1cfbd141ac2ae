"""A padded batch laid out in every way: as rows, one sequence after another, spread over ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.budgets import assert_same_bits
from support.libraries import Library
from support.ranks import Sum, on_all_ranks

from gspo_core import Packed, Padded, sharded
from gspo_core.layouts import Layout, Restricted


class Part(NamedTuple):
    """One rank's share of a padded batch [N, T]."""

    slots: np.ndarray
    """Which of the N · T padded slots stand where, in the shape of the rank's token arrays."""
    arrays: tuple[np.ndarray, ...]
    """What its layout is made of."""


@dataclass(frozen=True)
class Arrangement:
    """A way to lay a batch out."""

    name: str
    parts: Callable[[np.ndarray], list[Part]]
    """From the mask [N, T]: one part, or one per rank."""
    layout: Callable[..., Layout]
    """From a part's arrays, in any library, and N."""

    def __repr__(self) -> str:
        return self.name


def _slots(mask: np.ndarray) -> np.ndarray:
    return np.arange(mask.size).reshape(mask.shape)


def _segments(mask: np.ndarray, hole: int = -1) -> np.ndarray:
    """[N, T] whose token a slot holds."""
    return np.where(mask, np.arange(len(mask))[:, None], hole)


def _shuffled(mask: np.ndarray) -> list[Part]:
    """Segments that are not contiguous, with slots of nobody (a number too large) between them."""
    order = np.random.default_rng(mask.size).permutation(mask.size)
    return [Part(order, (_segments(mask, hole=len(mask) + 3).reshape(-1)[order],))]


def _in_a_row(mask: np.ndarray) -> list[Part]:
    """cu_seqlens of each row up to its last token, holes masked; what is left over stands behind the last sequence."""
    spans = np.max(np.where(mask, np.arange(mask.shape[1]) + 1, 0), axis=1, initial=0)
    inside = np.arange(mask.shape[1]) < spans[:, None]
    order = np.argsort(~inside.reshape(-1), stable=True)
    return [Part(order, (np.cumsum([0, *spans]), mask.reshape(-1)[order]))]


def _columns(mask: np.ndarray) -> list[np.ndarray]:
    """Two halves of the columns."""
    return np.split(_slots(mask), [(mask.shape[1] + 1) // 2], axis=1)


PADDED = Arrangement("padded", lambda m: [Part(_slots(m), (m,))], lambda m, _: Padded(m))
PACKED = Arrangement("packed", _shuffled, Packed)
CU_SEQLENS = Arrangement("cu_seqlens", _in_a_row, lambda cu, m, _: Packed.from_cu_seqlens(cu, m.shape[0], m))
SHARDED = Arrangement("sharded", lambda m: [Part(s, (m.reshape(-1)[s],)) for s in _columns(m)], lambda m, _: Padded(m))
PACKED_SHARDS = Arrangement(
    "packed shards",
    lambda m: [Part(s.reshape(-1), (_segments(m).reshape(-1)[s.reshape(-1)],)) for s in _columns(m)],
    Packed,
)
RESTRICTED = Arrangement("restricted", lambda m: [Part(_slots(m), (m | True, m))], lambda a, m, _: Restricted(Padded(a), m))

ARRANGEMENTS = [PADDED, PACKED, CU_SEQLENS, SHARDED, PACKED_SHARDS, RESTRICTED]
by_arrangement = pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=repr)


def _with_others(layout: Layout, others: tuple[Any, ...]) -> Layout:
    """One rank's layout, when what the other rank hands in is known: an array for each sum, in order. None: no other rank."""
    left = iter(others)
    return sharded(layout, lambda x: x + next(left)) if others else layout


class Ready:
    """f(layout, *arrays) on one library in one arrangement: padded NumPy in and out, compiled once for every N.

    `at_tokens` says which of the arrays that f returns have a token axis. What has none must be the same on every rank, to
    the bit if nothing is compiled (XLA adds the other rank's part before, between or after its own).
    """

    def __init__(
        self, library: Library, arrangement: Arrangement, f: Callable[..., tuple[Any, ...]], at_tokens: tuple[bool, ...]
    ) -> None:
        self.library, self.arrangement, self.f, self.at_tokens = library, arrangement, f, at_tokens
        self._compiled: dict[int, Callable[..., Any]] = {}

    def __call__(self, mask: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
        """Arrays of the mask's shape are laid out, others are passed on; the first one's dtype is what is computed in."""
        with self.library.precision(arrays[0].dtype):
            return self._run(mask, arrays)

    def _run(self, mask: np.ndarray, arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        library, parts = self.library, self.arrangement.parts(mask)
        inputs = [
            (
                tuple(library.array(x) for x in part.arrays),
                tuple(library.array(x.reshape(-1)[part.slots] if x.shape == mask.shape else x) for x in arrays),
            )
            for part in parts
        ]
        run = self._runner(len(mask))
        outputs = [
            [library.numpy(x) for x in run(*given, others)]
            for given, others in zip(inputs, self._others(inputs, len(mask)), strict=True)
        ]
        return [self._whole(mask, parts, [out[k] for out in outputs], tokens) for k, tokens in enumerate(self.at_tokens)]

    def _runner(self, num: int) -> Callable[..., Any]:
        if num not in self._compiled:

            def run(described: tuple[Any, ...], arrays: tuple[Any, ...], others: tuple[Any, ...]) -> tuple[Any, ...]:
                return self.f(_with_others(self.arrangement.layout(*described, num), others), *arrays)

            self._compiled[num] = self.library.run(run)
        return self._compiled[num]

    def _others(self, inputs: list[tuple[tuple[Any, ...], tuple[Any, ...]]], num: int) -> list[tuple[Any, ...]]:
        """What the other one of two ranks hands in, for each rank; found eagerly."""
        if len(inputs) == 1:
            return [()]

        def on_rank(described: tuple[Any, ...], arrays: tuple[Any, ...]) -> Callable[[Sum], Any]:
            return lambda total: self.f(sharded(self.arrangement.layout(*described, num), total), *arrays)

        _, sums = on_all_ranks([on_rank(*given) for given in inputs])
        return [tuple(parts[1 - rank] for parts in sums) for rank in (0, 1)]

    def _whole(self, mask: np.ndarray, parts: list[Part], found: list[np.ndarray], tokens: bool) -> np.ndarray:
        if not tokens:
            if not self.library.compiles:
                assert_same_bits(found[0], found[-1])
            return found[-1]
        whole = np.zeros(mask.size, dtype=found[0].dtype)
        for part, x in zip(parts, found, strict=True):
            whole[part.slots] = x
        return whole.reshape(mask.shape)
