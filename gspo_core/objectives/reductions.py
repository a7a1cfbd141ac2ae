"""Reductions: non-negative weights per unit over an explicit denominator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gspo_core._lib.array import count_true
from gspo_core._lib.checks import as_whole
from gspo_core._lib.units import flat, turn_lengths, turns_of
from gspo_core.types import Array, Layout, Namespace


@dataclass(frozen=True)
class SequenceMean:
    """Every non-empty sequence weighs the same: 1/denominator, shared equally by its tokens.

    A turn thus weighs what its tokens weigh; for turns that weigh the same see `TurnMean`. The denominator counts non-empty
    sequences. Source: GSPO, arXiv 2507.18071, eq. 5 (1/G Σ_i) and 13 (1/G Σ_i 1/|y_i| Σ_t).

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout = Padded(np.array([[True, True], [True, False], [False, False]]))
    >>> int(SequenceMean().count(layout)), SequenceMean().weights(layout, True, np.asarray(2.0)).tolist()
    (2, [[0.25, 0.25], [0.5, 0.0], [0.0, 0.0]])
    """

    sums_tokens: ClassVar[bool] = False

    def count(self, layout: Layout) -> Array:
        """[] number of non-empty sequences, integer."""
        return count_true(layout.xp, layout.non_empty())

    def counts(self, layout: Layout) -> Array:
        """[N] boolean: what each sequence counts for, 1 unless it is empty."""
        return layout.non_empty()

    def weights(self, layout: Layout, per_token: bool, denominator: Array) -> Array:
        """[N] 1/denominator, or as a token array 1/(|y_i| · denominator)."""
        xp = layout.xp
        share = xp.where(layout.non_empty(), 1.0 / denominator, 0.0)
        if not per_token:
            return share
        return layout.spread(share / layout.safe_lengths(denominator))

    def turn_weights(self, layout: Layout, denominator: Array) -> Array:
        """[N, K] |y_ik|/(|y_i| · denominator)."""
        lengths = layout.xp.astype(turn_lengths(turns_of(layout, self)), denominator.dtype)
        return lengths / layout.safe_lengths(denominator)[:, None] / denominator


@dataclass(frozen=True)
class TurnMean:
    """Every non-empty sequence weighs the same, shared equally by its non-empty turns, and by each turn's tokens.

    1/(denominator · K_i) for each of the K_i turns of sequence i: a short turn weighs as much as a long one. The denominator
    counts non-empty sequences. Needs a ratio per turn or per token (else `Objective` raises TypeError and `weights` ValueError)
    and a layout with turns (else TypeError). With one turn per sequence this is SequenceMean.

    >>> import numpy as np
    >>> from gspo_core import Padded, Turns
    >>> dialogue = Turns(Padded(np.ones((1, 3), dtype=bool)), np.array([[0, 0, 1]]), 2)
    >>> TurnMean().weights(dialogue, True, np.asarray(1.0)).tolist()
    [[0.25, 0.25, 0.5]]
    """

    sums_tokens: ClassVar[bool] = False
    shares_turns: ClassVar[bool] = True

    def count(self, layout: Layout) -> Array:
        """[] number of non-empty sequences, integer."""
        return count_true(layout.xp, layout.non_empty())

    def counts(self, layout: Layout) -> Array:
        """[N] boolean: what each sequence counts for, 1 unless it is empty."""
        return layout.non_empty()

    def weights(self, layout: Layout, per_token: bool, denominator: Array) -> Array:
        """Token array: 1/(K_i · |y_ik| · denominator)."""
        if not per_token:
            raise ValueError(
                "per_token: TurnMean() expected a ratio whose units are turns or tokens, got one whose units are sequences"
            )
        each = turns_of(layout, self).each
        return each.spread(flat(self.turn_weights(layout, denominator), layout) / each.safe_lengths(denominator))

    def turn_weights(self, layout: Layout, denominator: Array) -> Array:
        """[N, K] 1/(K_i · denominator), 0 for an empty turn."""
        xp = layout.xp
        there = turn_lengths(turns_of(layout, self)) > 0
        count = xp.astype(count_true(xp, there, axis=1), denominator.dtype)
        share = 1.0 / (xp.where(count > 0, count, 1.0) * denominator)
        return xp.where(there, share[:, None], 0.0)


@dataclass(frozen=True)
class TokenMean:
    """Every token weighs the same: 1/denominator. Long sequences weigh more.

    The denominator counts tokens. Needs a ratio whose units are tokens; with another, `Objective` raises TypeError and
    `weights` ValueError. Source: DAPO, arXiv 2503.14476, eq. 8.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout = Padded(np.array([[True, True], [True, True]]))
    >>> int(TokenMean().count(layout)), TokenMean().weights(layout, True, np.asarray(4.0)).tolist()
    (4, [[0.25, 0.25], [0.25, 0.25]])
    """

    sums_tokens: ClassVar[bool] = True

    def count(self, layout: Layout) -> Array:
        """[] number of tokens, integer."""
        return layout.xp.sum(layout.lengths())

    def counts(self, layout: Layout) -> Array:
        """[N] what each sequence counts for: its tokens, integer."""
        return layout.lengths()

    def weights(self, layout: Layout, per_token: bool, denominator: Array) -> Array:
        """Token array: 1/denominator."""
        if not per_token:
            raise ValueError(
                "per_token: TokenMean() expected a ratio whose units are tokens, got one whose units are sequences"
            )
        return layout.xp.where(layout.valid, 1.0 / denominator, 0.0)


@dataclass(frozen=True)
class FixedLength:
    """Every token weighs the same, 1/denominator, whatever the lengths in this batch; a sequence weighs |y_i|/denominator.

    The denominator counts `length` tokens for every non-empty sequence. With the longest possible response this is
    Dr.GRPO's constant; with 1 the mean over sequences of sums over tokens (LUSPO, MiniRL).

    JAX without x64 has integers up to 2³¹ − 1: a count that could be larger is a float32 there. Add counts of parts up as
    Python numbers or floats. `length` is a whole number of at least 1, else ValueError.

    Source: Dr.GRPO, arXiv 2503.20783, section 3.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> int(FixedLength(3000).count(Padded(np.array([[True, True], [False, False]]))))
    3000
    """

    sums_tokens: ClassVar[bool] = False

    length: int
    """Tokens that every sequence counts for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", as_whole("length", self.length, 1))

    def count(self, layout: Layout) -> Array:
        """[] length times the number of non-empty sequences, integer; float32 where the library's integers are too short."""
        count = count_true(layout.xp, layout.non_empty())
        return self._times_length(layout.xp, count, max(1, layout.num_sequences))

    def counts(self, layout: Layout) -> Array:
        """[N] what each sequence counts for, in the same dtypes: `length`, 0 if it is empty."""
        return self._times_length(layout.xp, count_true(layout.xp, layout.non_empty()[:, None], axis=1), 1)

    def _times_length(self, xp: Namespace, numbers: Array, largest: int) -> Array:
        """Integers of at most `largest`, times the length; float32 where the product could be too large for their dtype."""
        if largest * self.length > xp.iinfo(numbers.dtype).max:
            return xp.astype(numbers, xp.float32) * float(self.length)
        return numbers * self.length

    def weights(self, layout: Layout, per_token: bool, denominator: Array) -> Array:
        """[N] |y_i|/denominator, or as a token array 1/denominator."""
        if per_token:
            return layout.xp.where(layout.valid, 1.0 / denominator, 0.0)
        return layout.xp.astype(layout.lengths(), denominator.dtype) / denominator

    def turn_weights(self, layout: Layout, denominator: Array) -> Array:
        """[N, K] |y_ik|/denominator."""
        return layout.xp.astype(turn_lengths(turns_of(layout, self)), denominator.dtype) / denominator
