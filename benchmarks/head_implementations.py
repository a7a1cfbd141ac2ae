"""The implementations compared: from hidden states and an LM head to GSPO's loss and its two gradients, all by the same rules.

An implementation is prepared for its inputs (padding, layouts: not timed) and then run; a run gives (value, gradient of the
hidden states, gradient of the head), and `packed` brings the first gradient into the packed order (not timed either).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gspo_torch
import torch
import torch.nn.functional as F
from bare_products import BareProducts
from head_cases import HIGH, LOW, Inputs
from torch import Tensor

from gspo_core import GSPO, Packed

Run = Callable[[], tuple[Tensor, Tensor, Tensor] | None]


class Prepared(NamedTuple):
    """Ready to be timed."""

    run: Run
    packed: Callable[[Tensor], Tensor]
    """The gradient of the hidden states as [T, H]."""


class Missing(Exception):
    """The implementation is not installed; the message says how to get it."""


def gspo_by_hand(logp: Tensor, x: Inputs) -> Tensor:
    """The loss of packed log-probs, straight-line, float32, differentiable."""
    log_s = torch.zeros(len(x.lengths)).index_add(0, x.segment, logp - x.old_logp) / x.lengths
    s = log_s.exp()
    return -torch.minimum(s * x.advantage, s.clamp(1 - LOW, 1 + HIGH) * x.advantage).mean()


def _leaves(x: Inputs) -> tuple[Tensor, Tensor]:
    return x.hidden.detach().requires_grad_(), x.lm_head.detach().requires_grad_()


def naive(x: Inputs) -> Prepared:
    """All logits, log_softmax, gather; packed. Logits are in the parameters' dtype, everything after them float32."""

    def run() -> tuple[Tensor, Tensor, Tensor]:
        hidden, head = _leaves(x)
        logp = torch.log_softmax((hidden @ head.T).float(), dim=1).gather(1, x.tokens[:, None])[:, 0]
        value = gspo_by_hand(logp, x)
        return value.detach(), *torch.autograd.grad(value, (hidden, head))

    return Prepared(run, lambda g: g)


def torch_chunked(x: Inputs) -> Prepared:
    """`F.linear_cross_entropy(reduction="none")` with its default options; packed."""
    if not hasattr(F, "linear_cross_entropy"):
        raise Missing("F.linear_cross_entropy: pip install 'torch>=2.13'")
    options = torch.nn.LinearCrossEntropyOptions()

    def run() -> tuple[Tensor, Tensor, Tensor]:
        hidden, head = _leaves(x)
        logp = -F.linear_cross_entropy(hidden, head, x.tokens, reduction="none", options=options).float()
        value = gspo_by_hand(logp, x)
        return value.detach(), *torch.autograd.grad(value, (hidden, head))

    return Prepared(run, lambda g: g)


def liger(x: Inputs) -> Prepared:
    """Liger's chunked GRPO loss at sequence level; padded, one sequence per chunk (its default)."""
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss  # noqa: PLC0415 (optional package)
    except ImportError as error:
        raise Missing("liger: pip install --no-deps liger-kernel==0.8.5") from error
    sequences, longest = len(x.lengths), int(x.lengths.max())
    mask = torch.arange(longest)[None, :] < x.lengths[:, None]

    def padded(values: Tensor) -> Tensor:
        whole = values.new_zeros((sequences, longest, *values.shape[1:]))
        whole[mask] = values
        return whole

    # Compiling its elementwise loss gains nothing on a CPU: the time is in the matrix products.
    options: dict[str, Any] = {"beta": 0.0, "use_ref_model": False, "loss_type": "grpo", "compiled": False}
    loss = LigerFusedLinearGRPOLoss(epsilon_low=LOW, epsilon_high=HIGH, importance_sampling_level="sequence", **options)
    whole, tokens, old = padded(x.hidden.detach()), padded(x.tokens), padded(x.old_logp)

    def run() -> tuple[Tensor, Tensor, Tensor]:
        hidden, head = whole.detach().requires_grad_(), x.lm_head.detach().requires_grad_()
        value, _ = loss(hidden, head, tokens, mask.float(), x.advantage, old_per_token_logps=old)
        return value.detach(), *torch.autograd.grad(value, (hidden, head))

    return Prepared(run, lambda g: g[mask])


def ours(x: Inputs, **options: int) -> Prepared:
    """`gspo_torch.linear_policy_loss`; packed."""
    layout = Packed(x.segment, len(x.lengths))

    def run() -> tuple[Tensor, Tensor, Tensor]:
        hidden, head = _leaves(x)
        value = gspo_torch.linear_policy_loss(GSPO, hidden, head, x.tokens, x.old_logp, x.advantage, layout, **options).value
        return value.detach(), *torch.autograd.grad(value, (hidden, head))

    return Prepared(run, lambda g: g)


def aligned(x: Inputs) -> Prepared:
    """Ours with the default budget."""
    return ours(x)


def two_pass(x: Inputs) -> Prepared:
    """Ours with the least memory."""
    return ours(x, budget_bytes=0)


def floor(x: Inputs) -> Prepared:
    """The three matrix products of the exact gradient on all rows, each by the faster library, and nothing else."""
    products = BareProducts(x.hidden, x.lm_head)

    def run() -> None:
        products.run()

    return Prepared(run, lambda g: g)


IMPLEMENTATIONS: dict[str, Callable[[Inputs], Prepared]] = {
    "naive": naive,
    "linear_cross_entropy": torch_chunked,
    "liger": liger,
    "two_pass": two_pass,
    "aligned": aligned,
    "floor": floor,
}
