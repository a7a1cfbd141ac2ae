"""Log-probabilities of the sampled tokens from hidden states and the LM head, without the [T, V] logits.

Tokens go through the head in chunks; backward computes each chunk's logits again. Memory beyond the gradients is one
chunk × V in float32, whatever T is. Everything after the inputs is float32: rounding logits to bfloat16 moves log s by
as much as GSPO's clip range.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24
"""Logits held at a time: 64 MiB in float32."""


def token_logp(
    hidden: Tensor,
    lm_head: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """log π(token) = z[token] − log Σ_v exp z[v] with z = (lm_head · hidden + bias) / temperature, in nats.

    Args:
        hidden: [..., H] final hidden states, at the positions that predict `tokens`; any real floating dtype.
        lm_head: [V, H] the output embedding's weight.
        tokens: [...] integer token ids in [0, V). Select the policy's tokens first: every one costs a row of logits.
        bias: [V] of the output embedding, if it has one.
        temperature: the sampling temperature.

    Returns: [...] float32, differentiable once with respect to hidden, lm_head and bias (gradients accumulate in float32
    and come in the parameters' dtypes); a second derivative is refused with a RuntimeError.

    Raises: TypeError for a wrong dtype, ValueError for a wrong shape or temperature, each naming the argument.

    >>> import torch
    >>> hidden, head = torch.zeros(2, 5, 8), torch.randn(10, 8)
    >>> logp = token_logp(hidden, head, torch.zeros(2, 5, dtype=torch.int64))
    >>> logp.shape, bool(torch.allclose(logp.exp(), torch.tensor(0.1)))
    (torch.Size([2, 5]), True)
    """
    _check(hidden, lm_head, tokens, bias, temperature)
    rows = hidden.reshape(-1, hidden.shape[-1])
    flat: Tensor = _TokenLogp.apply(rows, lm_head, bias, tokens.reshape(-1), temperature)
    return flat.reshape(tokens.shape)


def _check(hidden: Tensor, lm_head: Tensor, tokens: Tensor, bias: Tensor | None, temperature: float) -> None:
    for name, x in (("hidden", hidden), ("lm_head", lm_head), ("tokens", tokens), ("bias", bias)):
        if not isinstance(x, Tensor) and not (x is None and name == "bias"):
            raise TypeError(f"{name}: expected a torch tensor, got {type(x).__module__}.{type(x).__name__}")
        if name != "tokens" and x is not None and not x.is_floating_point():
            raise TypeError(f"{name}: expected a floating-point tensor, got {x.dtype}")
    if tokens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"tokens: expected int64 or int32 token ids, got {tokens.dtype}")
    if hidden.ndim < 1:
        raise ValueError("hidden: expected shape [..., H], got []")
    if lm_head.ndim != 2 or hidden.shape[-1] != lm_head.shape[1]:
        raise ValueError(
            f"lm_head: expected [V, H] with H = {hidden.shape[-1]} as in hidden {list(hidden.shape)}, got {list(lm_head.shape)}"
        )
    if tokens.shape != hidden.shape[:-1]:
        raise ValueError(f"tokens: expected {list(hidden.shape[:-1])}, hidden without its last axis, got {list(tokens.shape)}")
    if bias is not None and bias.shape != lm_head.shape[:1]:
        raise ValueError(f"bias: expected [V] = {list(lm_head.shape[:1])}, got {list(bias.shape)}")
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature: expected a positive finite number, got {temperature}")


def _chunks(num_tokens: int, vocabulary: int) -> list[slice]:
    step = max(1, CHUNK_ELEMENTS // max(1, vocabulary))
    return [slice(start, start + step) for start in range(0, num_tokens, step)]


def _logits(hidden: Tensor, head: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """[chunk, V] float32, freshly allocated: callers may write into it."""
    logits = hidden.float() @ head.T
    if bias is not None:
        logits += bias.float()
    return logits if temperature == 1.0 else logits.div_(temperature)


class _TokenLogp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, lm_head: Tensor, bias: Tensor | None, tokens: Tensor, temperature: float) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            head = lm_head.float()
            logp = torch.empty(tokens.shape, dtype=torch.float32, device=hidden.device)
            lse = torch.empty_like(logp)
            for chunk in _chunks(len(tokens), len(head)):
                logits = _logits(hidden[chunk], head, bias, temperature)
                lse[chunk] = torch.logsumexp(logits, dim=-1)
                logp[chunk] = logits.gather(-1, tokens[chunk, None].long())[:, 0] - lse[chunk]
        ctx.save_for_backward(hidden, lm_head, bias, tokens, lse)
        ctx.temperature = temperature
        return logp

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, lm_head, bias, *_ = ctx.saved_tensors
        with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            gradients = _TokenLogp._gradients(ctx, upstream)
        if torch.is_grad_enabled():  # create_graph=True: fine as long as nobody differentiates these again
            sources = [x for x in (upstream, hidden, lm_head, bias) if x is not None]
            gradients = tuple(None if g is None else _NoSecondDerivative.apply(g, *sources) for g in gradients)
        return *gradients, None, None

    @staticmethod
    def _gradients(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, lm_head, bias, tokens, lse = ctx.saved_tensors
        want_hidden, want_head, want_bias = ctx.needs_input_grad[:3]
        head = lm_head.float()
        d_hidden = torch.empty_like(hidden) if want_hidden else None
        d_head = torch.zeros_like(head) if want_head else None
        d_bias = torch.zeros(len(head), device=head.device) if want_bias else None
        for chunk in _chunks(len(tokens), len(head)):
            # dlogits = upstream (onehot − softmax) / temperature, in the logits' own memory.
            weight = upstream[chunk, None].float() / ctx.temperature
            d_logits = _logits(hidden[chunk], head, bias, ctx.temperature).sub_(lse[chunk, None]).exp_().mul_(-weight)
            d_logits.scatter_add_(-1, tokens[chunk, None].long(), weight)
            if d_hidden is not None:
                d_hidden[chunk] = (d_logits @ head).to(hidden.dtype)
            if d_head is not None:
                d_head.addmm_(d_logits.T, hidden[chunk].float())
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        as_parameter = None if d_head is None else d_head.to(lm_head.dtype)
        return d_hidden, as_parameter, None if d_bias is None or bias is None else d_bias.to(bias.dtype)


class _NoSecondDerivative(torch.autograd.Function):
    """The identity on a gradient, which refuses to be differentiated. Without it the term would silently be lost."""

    @staticmethod
    def forward(_ctx: Any, gradient: Tensor, *_sources: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(_ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError("token_logp: its gradient cannot be differentiated again; take log_softmax of full logits instead")
