"""The papers' losses as anybody would type them in PyTorch: exp, min, clamp, detach. Autograd does the rest.

Only good away from kinks and overflow, and masked slots must hold finite numbers: for comparison, not for use.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _lengths(mask: Tensor) -> Tensor:
    return mask.sum(-1, keepdim=True).clamp(min=1)


def _clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    return torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def _nonempty(mask: Tensor) -> Tensor:
    return mask.any(-1).sum().clamp(min=1)


def gspo(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """Eq. 5."""
    log_s = ((logp - old) * mask).sum(-1) / _lengths(mask)[:, 0]
    return -(_clipped(log_s.exp(), advantage, low, high) * mask.any(-1)).sum() / _nonempty(mask)


def gspo_token(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """Eq. 13 with s_it = sg[s_i] · π/sg[π], stop-gradients as printed."""
    s = (((logp - old) * mask).sum(-1, keepdim=True) / _lengths(mask)).exp().detach()
    return _token_loss(s * (logp - logp.detach()).exp(), advantage, mask, low, high)


def gspo_token_without_sg(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """A mutant: eq. 13 with the stop-gradient on s_i forgotten."""
    s = (((logp - old) * mask).sum(-1, keepdim=True) / _lengths(mask)).exp()
    return _token_loss(s * (logp - logp.detach()).exp(), advantage, mask, low, high)


def grpo(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """GRPO's eq. 3."""
    return _token_loss((logp - old).exp(), advantage, mask, low, high)


def _token_loss(ratio: Tensor, advantage: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    advantage = advantage if advantage.ndim == 2 else advantage[:, None]
    gain = _clipped(ratio, advantage, low, high) * mask
    return -(gain.sum(-1, keepdim=True) / _lengths(mask)).sum() / _nonempty(mask)


FORMULAS = {"GSPO": gspo, "GSPO_TOKEN": gspo_token, "GRPO": grpo}
