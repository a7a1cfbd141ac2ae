"""A small LM head, the float64 truth of its log-probs, and the code everybody writes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Head(NamedTuple):
    """Inputs of token_logp."""

    hidden: Tensor
    lm_head: Tensor
    tokens: Tensor
    bias: Tensor | None

    def to(self, dtype: torch.dtype) -> Head:
        """Parameters and states in another dtype, as fresh leaves."""
        cast = [x if x is None else x.detach().to(dtype).requires_grad_() for x in (self.hidden, self.lm_head, self.bias)]
        return Head(cast[0], cast[1], self.tokens, cast[2])

    def leaves(self) -> list[Tensor]:
        """What gradients are asked for."""
        return [self.hidden, self.lm_head, *([] if self.bias is None else [self.bias])]


def head(seed: int = 0, shape: tuple[int, ...] = (3, 7), width: int = 16, vocabulary: int = 50, bias: bool = True) -> Head:
    """Float64 leaves with logits of standard deviation 4, as sharp as a language model's."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    return Head(
        normal(*shape, width),
        normal(vocabulary, width) * (4 / width**0.5),
        torch.randint(0, vocabulary, shape, generator=generator),
        normal(vocabulary) if bias else None,
    ).to(torch.float64)


def naive_logp(x: Head, temperature: float = 1.0) -> Tensor:
    """All logits at once, log_softmax, gather: in whatever dtype the inputs have."""
    logits = x.hidden @ x.lm_head.T
    logits = logits if x.bias is None else logits + x.bias
    return torch.log_softmax(logits / temperature, dim=-1).gather(-1, x.tokens[..., None].long())[..., 0]


def truth(x: Head, upstream: Tensor, temperature: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """(log-probs, gradients) of the naive code in float64, from the inputs as they are."""
    wide = x.to(torch.float64)
    logp = naive_logp(wide, temperature)
    return logp.detach(), list(torch.autograd.grad(logp, wide.leaves(), upstream.double()))
