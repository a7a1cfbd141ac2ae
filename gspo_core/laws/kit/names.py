"""How a loss is called: the names of its arguments, and the arrays that it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gspo_core._lib.array import namespace
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import GSPO

from .batch import Batch
from .oracle import count

Inputs = dict[str, Any]
Call = Callable[[Inputs], Any]
"""Named arrays ↦ the return value of the loss."""
FOUR = ("logp", "old_logp", "advantage", "mask")
"""The arguments by position."""


@dataclass(frozen=True)
class Names:
    """The argument names of a loss that is not called as loss(logp, old_logp, advantage, mask) by position.

    An input with a name is passed by that keyword, the others by position in that order. `denominator`, `ref_logp` and
    `sampler_logp` are passed only if they have a name. With `logits` and `tokens` the loss gets [N, T, 2] logits whose
    log-softmax at the tokens is log π − 1, and old log-probs that are lower by 1, too, in place of log-probs.
    """

    logp: str | None = None
    old_logp: str | None = None
    advantage: str | None = None
    mask: str | None = None
    denominator: str | None = None
    """Keyword of the number to divide by: non-empty responses, or tokens."""
    ref_logp: str | None = None
    """Keyword of the reference policy's log-probs."""
    sampler_logp: str | None = None
    """Keyword of the sampler's log-probs."""
    logits: str | None = None
    """Keyword of logits, [N, T, V]; slot t scores token t."""
    tokens: str | None = None
    """Keyword of the token ids, [N, T]."""
    needs_denominator: bool = False
    """Where a law gives no denominator, pass the count of the objective, not None."""
    counted_as: Objective = GSPO
    """That objective, set by `check`."""
    token_advantages: bool = False
    """Pass advantages as [N, T] always."""
    float_mask: bool = False
    """Pass the mask as 0.0 and 1.0, not as booleans."""
    empty_rows: bool = True
    """False: the loss is never given a row without a token, as by a trainer that filters such rows before it calls its loss."""

    def bound(self, fn: Callable[..., Any]) -> Call:
        """The function as a call with named arrays."""

        def call(inputs: Inputs) -> Any:
            if self.logits is not None:
                inputs = with_logits(inputs)
            positional = [inputs[k] for k in FOUR if k in inputs and getattr(self, k) is None]
            keyword = {getattr(self, k): x for k, x in inputs.items() if getattr(self, k) is not None}
            return fn(*positional, **keyword)

        return call

    def inputs(self, batch: Batch, dtype: Any) -> Inputs:
        """The arrays of a batch in the given dtype."""
        advantage = batch.advantage
        if self.token_advantages and not batch.per_token:
            advantage = np.repeat(advantage[:, None], batch.mask.shape[1], axis=1)
        found: Inputs = {"logp": batch.logp, "old_logp": batch.old_logp, "advantage": advantage}
        # Where a law does not speak of them, the KL term is 0 and the correction 1.
        silent = {"ref_logp": batch.logp, "sampler_logp": batch.old_logp}
        given = {k: silent[k] if getattr(batch, k) is None else getattr(batch, k) for k in silent}
        found |= {k: x for k, x in given.items() if getattr(self, k) is not None}
        cast: Inputs = {k: x.astype(dtype) for k, x in found.items()}
        cast["mask"] = batch.mask.astype(dtype) if self.float_mask else batch.mask.copy()
        if self.denominator is not None:
            own = self.needs_denominator and batch.denominator is None
            cast["denominator"] = count(self.counted_as, batch.mask.tolist()) if own else batch.denominator
        if self.tokens is not None:
            cast["tokens"] = np.zeros(batch.mask.shape, dtype=np.int64)
        return cast


def with_logits(inputs: dict[str, Any]) -> dict[str, Any]:
    """Logits for log-probs: two tokens, whose log-softmax is (log π − 1, log(1 − π/e)); old log-probs move with them."""
    xp = namespace(logp=inputs["logp"])
    moved: dict[str, Any] = {k: inputs[k] - 1.0 for k in ("logp", "old_logp", "ref_logp", "sampler_logp") if k in inputs}
    logp = moved.pop("logp")
    low = xp.where(logp < -1e-3, logp, -1e-3 * xp.ones_like(logp))
    logits = xp.stack([logp, xp.log1p(-xp.exp(low))], axis=-1)
    return {**{k: x for k, x in inputs.items() if k != "logp"}, **moved, "logits": logits}
