"""A loss on hidden states whose steps do not depend on any number: nothing is read from the device, and it is one graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gspo_core.objectives import LinearLoss

from .head import Head
from .logp import Wanted, score_every_slot
from .terms import Terms


def static_loss(
    head: Head, hidden: Tensor, tokens: Tensor, terms: Terms, *, return_logp: bool, return_entropy: bool
) -> LinearLoss:
    """The loss of every slot of the layout by the two-pass scheme: no token is left out, and no id is checked."""
    layout, has_bonus = terms.layout, terms.entropy_bonus is not None
    rows = hidden.reshape(-1, hidden.shape[-1])
    logp, entropy, _ = score_every_slot(rows, head, tokens, layout, Wanted(has_bonus or return_entropy, has_bonus))
    found = entropy if has_bonus or return_entropy else None
    weighed = terms.weigh(logp.detach(), None if found is None else found.detach())
    value = _Attached.apply(logp, found if has_bonus else None, weighed.value, weighed.c, weighed.e)
    return terms.result(value, weighed, logp.detach() if return_logp else None, None if found is None else found.detach())


class _Attached(torch.autograd.Function):
    """A value with its derivatives with respect to log-probs and entropies."""

    @staticmethod
    def forward(ctx: Any, _logp: Tensor, _entropy: Tensor | None, value: Tensor, c: Tensor, e: Tensor | None) -> Tensor:
        """The value."""
        ctx.save_for_backward(c, e)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """upstream · c for the log-probs, upstream · e for the entropies."""
        c, e = ctx.saved_tensors
        return upstream * c, None if e is None else upstream * e, None, None, None
