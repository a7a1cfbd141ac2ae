"""Sampler correction: the weight π_old/π_sampler, where the engine that sampled is not the one that trains.

It is not the policy ratio π/π_old of an objective: it is data, an array that multiplies the advantage. Gains and slopes of
the surrogates are positively homogeneous in the advantage, so that a weight w ≥ 0 on the advantage is exactly the weight w
on the clipped gain and on its gradient, min(s w A, clip(s) w A) = w · min(s A, clip(s) A); it neither moves the clip range
nor is it clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from gspo_core._lib.array import exp_finite, namespace, without_nan_warning
from gspo_core._lib.checks import check_choice
from gspo_core._lib.units import mean_over_tokens
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.layouts.restricted import Restricted
from gspo_core.types import Array, Layout

from .bounds import Action, Mask, Reject, Truncate


class Level(Protocol):
    """The unit that has one weight: a token, or a sequence."""

    @property
    def per_token(self) -> bool:
        """True if a unit is a token, False if it is a sequence."""

    def log_weight(self, d: Array, layout: Layout) -> Array:
        """Units: log of the raw weight, from the token array d = old_logp − sampler_logp (0 in masked slots)."""


@dataclass(frozen=True)
class TokenWeight:
    """w_it = π_old(y_it) / π_sampler(y_it), a weight per token: biased, of low variance.

    Needs an objective whose units are tokens (GSPO_TOKEN, GRPO). Source: F. Yao et al., 2025, "Your Efficient RL Framework
    Secretly Brings You Off-Policy RL Training".

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> TokenWeight().log_weight(np.array([[0.5, 9.0]]), Padded(np.array([[True, False]]))).tolist()
    [[0.5, 0.0]]
    """

    per_token: ClassVar[bool] = True

    def log_weight(self, d: Array, layout: Layout) -> Array:
        """Token array: d itself."""
        return layout.select(d)


@dataclass(frozen=True)
class ProductWeight:
    """w_i = Π_t π_old(y_it) / π_sampler(y_it), a weight per sequence: the exact one, of a variance that grows with |y_i|.

    A one-sided gap of 3e-4 nats per token makes it 0.06 for 9000 tokens.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> ProductWeight().log_weight(np.array([[0.5, 0.25]]), Padded(np.array([[True, True]]))).tolist()
    [0.75]
    """

    per_token: ClassVar[bool] = False

    def log_weight(self, d: Array, layout: Layout) -> Array:
        """[N] Σ_t d."""
        return layout.sum(d)


@dataclass(frozen=True)
class GeometricWeight:
    """w_i = (Π_t π_old(y_it) / π_sampler(y_it))^(1/|y_i|), a weight per sequence: how far apart the engines are per token.

    As a weight it corrects only a |y_i|-th of the mismatch; as a filter it knows no length.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> GeometricWeight().log_weight(np.array([[0.5, 0.25]]), Padded(np.array([[True, True]]))).tolist()
    [0.375]
    """

    per_token: ClassVar[bool] = False

    def log_weight(self, d: Array, layout: Layout) -> Array:
        """[N] (1/|y_i|) Σ_t d."""
        return mean_over_tokens(d, layout)


@dataclass(frozen=True)
class Correction:
    """A sampler correction is two choices: who has a weight, and what happens to extreme ones. A value: hashable.

    Raises TypeError if a choice is something else, or a class in place of a value.

    >>> Correction(TokenWeight(), Truncate(2.0)) == TIS
    True
    """

    level: Level
    """TokenWeight(), ProductWeight() or GeometricWeight(); with Reject also MeanAbsolute(), MeanK3(), TokensInside(...)."""
    action: Action
    """Truncate(high), Mask(low, high, drop=...) or Reject(low, high, drop=...)."""

    def __post_init__(self) -> None:
        check_choice("level", self.level, ("log_weight", "per_token"), "TokenWeight(), ProductWeight() or GeometricWeight()")
        check_choice("action", self.action, ("drop", "__call__"), "Truncate(high), Mask(...) or Reject(...)")
        if not getattr(self.level, "is_weight", True) and isinstance(self.action, (Truncate, Mask)):
            raise TypeError(f"action: {self.level} measures disagreement; expected Reject(...), got {self.action}")


class SamplerWeight(NamedTuple):
    """A correction's weights. Units are tokens or sequences; empty sequences and masked slots are 0 and not kept.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> w = sampler_weight(MIS, np.zeros((2, 1)), np.array([[0.0], [-1.0]]), Padded(np.array([[True], [True]])))
    >>> w.weight.tolist(), w.raw.round(3).tolist(), w.kept.tolist()
    ([1.0, 0.0], [1.0, 2.718], [True, False])
    """

    weight: Array
    """Units: what multiplies the advantage, at least 0; exactly 1 where sampler and old policy agree."""
    raw: Array
    """Units: the weight before truncation and rejection, continued linearly beyond e⁵⁰ and so finite wherever `log_raw` is; 0
    where the trainer's log-prob is −∞, ∞ where the sampler's is, NaN where both are."""
    log_raw: Array
    """Units: log of the raw weight; nats."""
    kept: Array
    """Units, boolean: a token or sequence that is there and was not rejected."""
    layout: Layout
    """Layout for the loss: the layout itself, or without the rejected units if the action has drop=True."""


def sampler_weight(
    correction: Correction, old_logp: Array, sampler_logp: Array, layout: Layout, *, allow_low_precision: bool = False
) -> SamplerWeight:
    """The weight π_old(y)/π_sampler(y) of each token or sequence, bounded as `correction` says.

    It enters a loss through the advantage: `advantage * w.weight` if it is one per sequence, and
    `PerToken(layout.spread(advantage) * w.weight)` if it is one per token, together with `w.layout`. The loss is then
    Σ w · clipped gain, exactly. With drop=True, what is rejected counts neither in |y_i| nor in the default denominator; a
    denominator that you pass yourself must then be counted on `w.layout`, too.

    Args:
        correction: TIS, MIS, ICEPOP, GEO_RS, or your own `Correction(level, action)`.
        old_logp: token array, log-probs of the sampled tokens as the trainer computes them, before the update; nats.
        sampler_logp: token array, the same as the sampling engine reported them, at the same temperature.
        layout: where the policy's tokens stand. Masked slots of every input are inert.
        allow_low_precision: accept log-probs below float32 and upcast them.

    Returns: `SamplerWeight`, in float32, or float64 if a log-prob is. Log-probs are data: no gradient flows through it.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    Sources: at the named corrections `TIS`, `MIS`, `ICEPOP`, `GEO_RS`.

    >>> import numpy as np
    >>> from gspo_core import TIS, Padded
    >>> old, sampler = np.log(np.array([[0.5, 0.75]])), np.log(np.array([[0.5, 0.25]]))
    >>> w = sampler_weight(TIS, old, sampler, Padded(np.array([[True, True]])))
    >>> w.weight.round(12).tolist(), w.raw.round(12).tolist()
    ([[1.0, 2.0]], [[1.0, 3.0]])
    """
    if not isinstance(correction, Correction):
        raise TypeError(f"correction: expected a Correction such as TIS, got {type(correction).__name__}")
    check_layout(layout)
    xp = namespace(old_logp=old_logp, sampler_logp=sampler_logp, layout=layout.valid)
    old, sampler = log_probs(xp, layout, allow_low_precision, old_logp=old_logp, sampler_logp=sampler_logp)
    with without_nan_warning(xp):
        log_raw = correction.level.log_weight(old - sampler, layout)
    weight, kept = correction.action(xp, log_raw)
    there = layout.valid if correction.level.per_token else layout.non_empty()
    kept = kept & there
    raw, _ = exp_finite(xp, log_raw)
    remaining = layout
    if correction.action.drop:
        tokens = kept if correction.level.per_token else layout.spread(xp.astype(kept, log_raw.dtype)) > 0
        remaining = Restricted(layout, tokens)
    return SamplerWeight(xp.where(there, weight, 0.0), xp.where(there, raw, 0.0), log_raw, kept, remaining)


TIS = Correction(TokenWeight(), Truncate(2.0))
"""min(w_it, 2). Truncated importance sampling; F. Yao et al., 2025; C as in verl and slime (TRL: 3;
MiniRL, arXiv 2512.01374: 5).

>>> import numpy as np
>>> TIS.action(np, np.log(np.array([0.25, 1.0, 8.0]))).weight.tolist()
[0.25, 1.0, 2.0]
"""

MIS = Correction(ProductWeight(), Mask(0.5, 2.0, drop=False))
"""w_i where 0.5 ≤ w_i ≤ 2, else 0. Masked importance sampling; J. Liu et al., 2025, "When Speed Kills Stability".

>>> import numpy as np
>>> MIS.action(np, np.log(np.array([0.25, 1.0, 8.0]))).weight.tolist()
[0.0, 1.0, 0.0]
"""

ICEPOP = Correction(TokenWeight(), Mask(0.5, 5.0, drop=False))
"""w_it where 0.5 ≤ w_it ≤ 5, else 0, lengths unchanged. IcePop; Ring-1T, arXiv 2510.18855.

>>> import numpy as np
>>> ICEPOP.action(np, np.log(np.array([0.25, 1.0, 4.0]))).weight.round(12).tolist()
[0.0, 1.0, 4.0]
"""

GEO_RS = Correction(GeometricWeight(), Reject(0.999, 1.001, drop=True))
"""The sequence is left out unless 0.999 ≤ w_i^(1/|y_i|) ≤ 1.001. Geometric rejection sampling; verl, "0.999_1.001".

>>> import numpy as np
>>> GEO_RS.action(np, np.array([0.0005, -0.002])).kept.tolist()
[True, False]
"""
