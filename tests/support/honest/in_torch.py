"""Correct losses in the styles of strangers, in PyTorch: (function, the objective that it is)."""

from __future__ import annotations

from typing import Any

import torch
from support.honest.in_numpy import HIGH, LIKE, LOW
from torch import Tensor

from gspo_core import GRPO, GSPO_TOKEN, Objective
from gspo_core.objectives import ASPO, CISPO, DAPO, DR_GRPO, GMPO, LUSPO, SAPO, VESPO


def _surrogate(s: Tensor, a: Tensor, low: float = LOW, high: float = HIGH) -> Tensor:
    return torch.min(s * a, torch.clamp(s, 1 - low, 1 + high) * a)


def masked_mean(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    length = mask.sum(-1)
    log_ratio = torch.where(mask, logp - old_logp, 0.0).sum(-1) / length.clamp(min=1)
    gain = _surrogate(log_ratio.exp(), advantage)
    return -torch.where(length > 0, gain, 0.0).sum() / (length > 0).sum().clamp(min=1)


def masked_fill(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, completion_mask: Tensor) -> Tensor:
    diff = (log_probs - old_log_probs.detach()).masked_fill(~completion_mask, 0.0)
    coef = torch.exp(diff.sum(1) / completion_mask.sum(1).clamp(min=1.0)).unsqueeze(1)
    first = coef * advantages.unsqueeze(1)
    second = torch.clamp(coef, 1 - LOW, 1 + HIGH) * advantages.unsqueeze(1)
    loss = -torch.min(first, second).squeeze(1)
    filled = completion_mask.any(1)
    return (loss * filled).sum() / filled.sum().clamp(min=1)


def packed_index_add(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    row, _ = mask.nonzero(as_tuple=True)
    d = (logp - old_logp)[mask]
    zeros = torch.zeros(len(mask), dtype=d.dtype)
    total, count = zeros.index_add(0, row, d), zeros.index_add(0, row, torch.ones_like(d))
    gain = _surrogate((total / count.clamp(min=1)).exp(), advantage)
    return -gain[count > 0].sum() / (count > 0).sum().clamp(min=1)


def prefix_sums(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Differences of prefix sums over the packed batch, as with cu_seqlens."""
    count = mask.sum(-1)
    ends = count.cumsum(0)
    sums = torch.cat([logp.new_zeros(1), (logp - old_logp)[mask].cumsum(0)])
    s = ((sums[ends] - sums[ends - count]) / count.clamp(min=1)).exp()
    return -(_surrogate(s, advantage) * (count > 0)).sum() / (count > 0).sum().clamp(min=1)


def scatter_add(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    n, width = mask.shape
    row = torch.arange(n).unsqueeze(1).expand(n, width).reshape(-1)
    d = torch.where(mask, logp - old_logp, torch.zeros_like(logp)).reshape(-1)
    total = torch.zeros(n, dtype=d.dtype).scatter_add(0, row, d)
    s = torch.exp(total / mask.sum(1).clamp_min(1))
    full = mask.any(1)
    return -(_surrogate(s, advantage) * full).sum() / full.sum().clamp_min(1)


def loop_over_responses(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    losses = []
    for i in range(len(mask)):
        keep = mask[i]
        if keep.sum() == 0:
            continue
        s = (logp[i][keep] - old_logp[i][keep]).mean().exp()
        losses.append(-_surrogate(s, advantage[i]))
    return torch.stack(losses).mean() if losses else logp.sum() * 0.0


def early_return(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    if not mask.any():
        return torch.zeros((), dtype=logp.dtype, requires_grad=True)
    return masked_mean(logp, old_logp, advantage, mask)


def filtered(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    keep = mask.any(dim=-1)
    if keep.sum() == 0:
        return (logp * 0).sum()
    logp, old_logp, advantage, mask = logp[keep], old_logp[keep], advantage[keep], mask[keep]
    s = (((logp - old_logp) * mask).sum(-1) / mask.sum(-1)).exp()
    return -_surrogate(s, advantage).mean()


def in_float32(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(logp.float(), old_logp.float(), advantage.float(), mask)


def two_maxima(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    n = mask.sum(-1)
    s = torch.exp(torch.nan_to_num((logp - old_logp).masked_fill(~mask, 0)).sum(-1) / torch.clamp(n, min=1))
    losses = torch.maximum(-advantage * s, -advantage * torch.clip(s, 1 - LOW, 1 + HIGH))
    return losses[n > 0].sum() / max(1, int((n > 0).sum()))


def gate_times_weight(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    n = mask.sum(-1).clamp(min=1)
    x = torch.where(mask, logp - old_logp, 0.0).sum(-1) / n
    high = torch.log1p(torch.tensor(HIGH, dtype=x.dtype))
    low = torch.log1p(torch.tensor(-LOW, dtype=x.dtype))
    x = torch.where(advantage > 0, torch.minimum(x, high), torch.where(advantage < 0, torch.maximum(x, low), x))
    return -(x.exp() * advantage * mask.any(-1)).sum() / mask.any(-1).sum().clamp(min=1)


class _Surrogate(torch.autograd.Function):
    """min(s A, clip(s) A) of log s, with a gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor) -> Tensor:
        s = x.exp()
        shut = ((a > 0) & (s > 1 + HIGH)) | ((a < 0) & (s < 1 - LOW))
        ctx.save_for_backward(torch.where(shut, torch.zeros_like(s), s * a))
        return _surrogate(s, a)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.saved_tensors[0], None


def custom_function(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    x = torch.where(mask, logp - old_logp, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    gain = _Surrogate.apply(x, advantage)
    return -(gain * mask.any(-1)).sum() / mask.any(-1).sum().clamp(min=1)


class Module(torch.nn.Module):
    """A module with buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(1 - LOW, dtype=torch.float64))
        self.register_buffer("high", torch.tensor(1 + HIGH, dtype=torch.float64))

    def forward(self, logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        s = (torch.where(mask, logp - old_logp, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)).exp()
        gain = torch.minimum(s * advantage, s.clamp(self.low, self.high) * advantage)
        return -(gain * mask.any(-1)).sum() / mask.any(-1).sum().clamp(min=1)


def vmapped(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    def one(lp: Tensor, old: Tensor, a: Tensor, m: Tensor) -> Tensor:
        s = (torch.where(m, lp - old, 0.0).sum() / m.sum().clamp(min=1)).exp()
        return torch.where(m.any(), _surrogate(s, a), 0.0)

    return -torch.vmap(one)(logp, old_logp, advantage, mask).sum() / mask.any(-1).sum().clamp(min=1)


def einsum(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    m = mask.to(logp.dtype)
    x = torch.einsum("nt,nt->n", torch.where(mask, logp - old_logp, 0.0), m) / m.sum(1).clamp(min=1)
    return -torch.einsum("n,n->", _surrogate(x.exp(), advantage), m.amax(1)) / m.amax(1).sum().clamp(min=1)


def nested_tuple(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Any]]:
    def ratio() -> Tensor:
        return (torch.where(mask, logp - old_logp, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)).exp()

    def loss(s: Tensor) -> Tensor:
        return -(_surrogate(s, advantage) * mask.any(-1)).sum() / mask.any(-1).sum().clamp(min=1)

    s = ratio()
    return loss(s), {"ratio": s.mean().item()}


def verl_style(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    negative_kl = torch.where(mask, logp - old_logp, 0.0)
    seq = (negative_kl * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    log_s = torch.clamp(torch.where(mask, logp - logp.detach(), 0.0) + seq.detach().unsqueeze(-1), max=10.0)
    s, a = log_s.exp(), advantage.unsqueeze(-1)
    losses = torch.where(mask, torch.maximum(-a * s, -a * torch.clamp(s, 1 - LOW, 1 + HIGH)), 0.0)
    return ((losses.sum(-1) / mask.sum(-1).clamp(min=1)).sum()) / mask.any(-1).sum().clamp(min=1)


def token_form(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    a = advantage if advantage.dim() == 2 else advantage[:, None].expand(mask.shape)
    a = torch.where(mask, a, 0.0)
    x = torch.where(mask, logp - old_logp, 0.0).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    clean = torch.where(mask, logp, 0.0)
    gain = _surrogate((x.detach() + clean - clean.detach()).exp(), a)
    rows = torch.where(mask, gain, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    return -rows.sum() / mask.any(-1).sum().clamp(min=1)


def _w(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, logp - old, 0.0).exp()


def grpo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    gain = torch.where(mask, _surrogate(_w(logp, old_logp, mask), advantage[:, None], 0.2, 0.2), 0.0)
    return -(gain.sum(-1) / mask.sum(-1).clamp(min=1)).sum() / mask.any(-1).sum().clamp(min=1)


def dapo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    gain = _surrogate(_w(logp, old_logp, mask), advantage[:, None], 0.2, 0.28)
    return -(gain * mask).sum() / mask.sum().clamp(min=1)


def dr_grpo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    gain = _surrogate(_w(logp, old_logp, mask), advantage[:, None], 0.2, 0.2)
    return -(gain * mask).sum() / (3000 * mask.any(-1).sum().clamp(min=1))


def luspo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    n = mask.sum(-1)
    s = (torch.where(mask, logp - old_logp, 0.0).sum(-1) / n.clamp(min=1)).exp()
    return -(_surrogate(s, advantage, 2e-3, 2.5e-3) * n).sum() / (n > 0).sum().clamp(min=1)


def sapo_as_trl(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    a = advantage[:, None]
    tau = torch.where(a > 0, 1.0, 1.05)
    loss = -torch.sigmoid(tau * (_w(logp, old_logp, mask) - 1)) * 4 / tau * a
    return ((loss * mask).sum(-1) / mask.sum(-1).clamp(min=1)).sum() / mask.any(-1).sum().clamp(min=1)


def gmpo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    d, a = torch.where(mask, logp - old_logp, 0.0), advantage[:, None]
    d = torch.where(a > 0, d.clamp(max=0.4), torch.where(a < 0, d.clamp(min=-0.4), d))
    s = (d.sum(-1) / mask.sum(-1).clamp(min=1)).exp()
    return -(s * advantage * mask.any(-1)).sum() / mask.any(-1).sum().clamp(min=1)


def cispo_of_weights(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    w = _w(logp, old_logp, mask).clamp(max=5.0).detach()
    clean = torch.where(mask, logp, 0.0)
    gain = w * advantage[:, None] * (1 + clean - clean.detach())
    return -(gain * mask).sum() / mask.sum().clamp(min=1)


def cispo_as_printed(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    weight = _w(logp, old_logp, mask).clamp(max=5.0).detach()
    gain = weight * advantage[:, None] * torch.where(mask, logp, 0.0)
    return -(gain * mask).sum() / mask.sum().clamp(min=1)


def vespo_as_printed(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    rho = torch.where(mask, logp - old_logp, 0.0).sum(-1).detach()
    k, lam = (torch.where(advantage >= 0, x, y).to(rho.dtype) for x, y in ((2.0, 3.0), (3.0, 2.0)))
    weight = (k * rho + lam * (1 - rho.exp())).exp() * advantage
    return -(weight[:, None] * torch.where(mask, logp, 0.0)).sum() / mask.sum().clamp(min=1)


def aspo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    a, w = advantage[:, None], _w(logp, old_logp, mask).detach()
    weight = torch.where(a > 0, (1 / w).clamp(max=3.0), w.clamp(max=3.0))
    shut = ((a > 0) & (w > 1.2)) | ((a < 0) & (w < 0.8))
    held = torch.where(a > 0, 1 / 1.2, 0.8).to(w.dtype)
    clean = torch.where(mask, logp, 0.0)
    gain = a * torch.where(shut, held, weight * (1 + clean - clean.detach()))
    return -(gain * mask).sum() / mask.sum().clamp(min=1)


def vespo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    rho = torch.where(mask, logp - old_logp, 0.0).sum(-1).detach()
    k, lam = (torch.where(advantage >= 0, x, y).to(rho.dtype) for x, y in ((2.0, 3.0), (3.0, 2.0)))
    phi = (k * rho + lam * (1 - rho.exp())).exp()
    clean = torch.where(mask, logp, 0.0)
    gain = (phi * advantage)[:, None] * (1 + clean - clean.detach())
    return -(gain * mask).sum() / mask.sum().clamp(min=1)


GSPOS = [masked_mean, masked_fill, packed_index_add, scatter_add, loop_over_responses, early_return, filtered, in_float32]
GSPOS += [prefix_sums, two_maxima, gate_times_weight, custom_function, Module(), vmapped, einsum, nested_tuple, verl_style]
LOSSES: list[tuple[Any, Objective]] = [
    *((loss, LIKE) for loss in GSPOS),
    (torch.compile(masked_mean, backend="eager", dynamic=True), LIKE),
    (token_form, GSPO_TOKEN.with_clip(LOW, HIGH)),
    (grpo, GRPO),
    (dapo, DAPO),
    (dr_grpo, DR_GRPO),
    (luspo, LUSPO),
    (sapo_as_trl, SAPO),
    (gmpo, GMPO),
    (cispo_of_weights, CISPO),
    (cispo_as_printed, CISPO),
    (vespo_as_printed, VESPO),
    (aspo, ASPO),
    (vespo, VESPO),
]
