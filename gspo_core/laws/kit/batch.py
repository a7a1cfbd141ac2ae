"""A small padded batch in float64 NumPy, readable when printed. All laws are stated on such batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

TOKEN_ARRAYS = ("logp", "old_logp", "ref_logp", "sampler_logp")


@dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of a loss: N sequences in T slots, log-probs in nats."""

    logp: Floats
    """[N, T] log-probs under the current policy."""
    old_logp: Floats
    """[N, T] log-probs under the old policy."""
    advantage: Floats
    """[N], or [N, T] with one per token."""
    mask: Bools
    """[N, T] True where a slot holds a token."""
    denominator: float | None = None
    """Number that the loss divides its sum by; None: the batch's own count of responses or tokens."""
    ref_logp: Floats | None = None
    """[N, T] log-probs under a reference policy, for losses with a KL term."""
    sampler_logp: Floats | None = None
    """[N, T] log-probs under the sampling engine, for losses with a sampler correction."""

    @staticmethod
    def of(
        d: Sequence[Sequence[float]],
        advantage: Sequence[float] | Sequence[Sequence[float]],
        mask: Sequence[Sequence[int]] | None = None,
        base: float = 0.0,
    ) -> Batch:
        """A batch with the token log ratios d. With base 0, logp − old_logp is exactly d and no log-prob is positive.

        >>> Batch.of([[0.5, -0.25]], [1.0]).d.tolist()
        [[0.5, -0.25]]
        """
        ratios = np.array(d, dtype=np.float64)
        tokens = np.ones(ratios.shape, dtype=bool) if mask is None else np.array(mask) > 0
        return Batch(
            np.minimum(ratios, 0.0) + base, base - np.maximum(ratios, 0.0), np.array(advantage, dtype=np.float64), tokens
        )

    @property
    def d(self) -> Floats:
        """[N, T] token log ratios, 0 where masked."""
        return np.where(self.mask, self.logp, 0.0) - np.where(self.mask, self.old_logp, 0.0)

    @property
    def lengths(self) -> npt.NDArray[np.intp]:
        """[N] |y_i|."""
        return np.asarray(np.sum(self.mask, axis=1))

    @property
    def per_token(self) -> bool:
        """Whether there is one advantage per token."""
        return self.advantage.ndim == 2

    @property
    def token_advantage(self) -> Floats:
        """[N, T] the advantage at every token, 0 where masked."""
        wide = self.advantage if self.per_token else self.advantage[:, None]
        return np.where(self.mask, wide, 0.0)

    @property
    def largest(self) -> float:
        """max(|d|, |Σ_t d|). The rounding error of a log ratio is proportional to it."""
        d = np.abs(self.d)
        return float(max(np.max(d, initial=0.0), np.max(d.sum(axis=1), initial=0.0)))

    def with_d(self, d: Floats) -> Batch:
        """The same batch with other token log ratios, as `of` makes them with base 0."""
        return replace(self, logp=np.minimum(d, 0.0), old_logp=-np.maximum(d, 0.0))

    def rows(self, index: Any) -> Batch:
        """The chosen sequences, in this order."""
        return self._mapped(lambda x: x[index], lambda x: x[index])

    def columns(self, index: Any) -> Batch:
        """The chosen slots, in this order."""
        return self._mapped(lambda x: x[:, index], lambda x: x)

    def _mapped(self, tokens: Any, sequences: Any) -> Batch:
        found = {name: getattr(self, name) for name in (*TOKEN_ARRAYS, "mask")}
        moved = {name: tokens(x) for name, x in found.items() if x is not None}
        moved["advantage"] = tokens(self.advantage) if self.per_token else sequences(self.advantage)
        return replace(self, **moved)

    def with_padding(self, value: float) -> Batch:
        """The same batch with `value` in every masked slot of every input, and as the advantage of empty rows.

        Old log-probs get −value, so that the two do not cancel.
        """
        found = {name: getattr(self, name) for name in TOKEN_ARRAYS}
        padded: dict[str, Any] = {name: np.where(self.mask, x, value) for name, x in found.items() if x is not None}
        padded["old_logp"] = np.where(self.mask, self.old_logp, -value)
        where = self.mask if self.per_token else self.mask.any(axis=1)
        return replace(self, advantage=np.where(where, self.advantage, value), **padded)

    def rounded(self, dtype: Any) -> Batch:
        """The batch after a cast to `dtype` and back to float64."""
        found = {name: getattr(self, name) for name in (*TOKEN_ARRAYS, "advantage")}
        return replace(self, **{k: x.astype(dtype).astype(np.float64) for k, x in found.items() if x is not None})

    def __str__(self) -> str:
        """One line per sequence."""
        lines = []
        for i in range(len(self.mask)):
            d = ["·" if not m else f"{x:.6g}" for x, m in zip(self.d[i], self.mask[i], strict=True)]
            a = [f"{x:g}" for x in self.advantage[i]] if self.per_token else [f"{self.advantage[i]:g}"]
            lines.append(f"sequence {i}: d = [{', '.join(d)}]   A = {', '.join(a)}   |y| = {self.lengths[i]}")
        given = "" if self.denominator is None else f"\ndenominator = {self.denominator:g}"
        return "\n".join(lines) + given
