"""Adapters: a loss on packed arrays called with padded ones, and the return value of a loss that has its own gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gspo_core._lib.array import arange_like, namespace


class OwnGradient(NamedTuple):
    """The return value of a loss that computes its own gradient."""

    value: Any
    """[] the loss."""
    logp_grad: Any
    """Token array: ∂value/∂logp."""
    log_ratio: Any = None
    """Units: their log ratios, if the loss reports them."""
    clipped: Any = None
    """Units: True where clipped, if the loss reports it."""


def as_padded(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Turns loss(logp [M], old_logp [M], advantage, segment_ids [M], num_sequences) into a loss on padded arrays [N, T].

    The N·T slots are laid out one after another; a masked slot has the id −1. `advantage` is [N], or [M] where the padded
    one is [N, T]. Works with any array library.
    """

    def padded(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        xp = namespace(logp=logp, mask=mask)
        num = mask.shape[0]
        ids = xp.where(mask, arange_like(xp, num, xp.astype(mask, xp.int64))[:, None], -1)

        def flat(x: Any) -> Any:
            return xp.reshape(x, (-1,))

        tokens = flat(advantage) if len(advantage.shape) == 2 else advantage
        found = loss(flat(logp), flat(old_logp), tokens, flat(ids), num)
        if hasattr(found, "logp_grad"):
            return OwnGradient(found.value, xp.reshape(found.logp_grad, mask.shape))
        return found

    padded.__name__ = getattr(loss, "__name__", type(loss).__name__)
    return padded
