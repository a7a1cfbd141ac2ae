"""Inputs of the LM-head benchmarks, and their loss and gradients in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LOW, HIGH = 3e-4, 4e-4
"""GSPO's clip range."""
SPREAD = 3.5
"""Standard deviation of the logits: an entropy of about 4 nats at V = 32768."""
EDGE = 1e-5
"""Distance of log s from a bound below which float32 may decide either way; nats."""


class Shape(NamedTuple):
    """Sizes of a head and of the tokens that meet it."""

    tokens: int
    hidden: int
    vocabulary: int

    @property
    def name(self) -> str:
        """As on the command line."""
        return ",".join(str(x) for x in self)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Packed sequences: row t of `hidden` predicts `tokens[t]`."""

    hidden: Tensor
    """[T, H]"""
    lm_head: Tensor
    """[V, H]"""
    tokens: Tensor
    """[T] drawn from the head's own distribution."""
    lengths: Tensor
    """[N]"""
    old_logp: Tensor
    """[T] float32: the log-probs less a ratio that was chosen."""
    advantage: Tensor
    """[N]"""

    @property
    def segment(self) -> Tensor:
        """[T] the sequence of each token."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)

    @property
    def pad_ratio(self) -> float:
        """Slots of the padded array per token."""
        return int(self.lengths.max()) * len(self.lengths) / int(self.lengths.sum())


class Policy(NamedTuple):
    """A head and tokens sampled from it, before anything is known of sequences."""

    hidden: Tensor
    lm_head: Tensor
    tokens: Tensor
    logp: Tensor
    """[T] float64."""
    entropy: float
    """Mean over the tokens; nats."""


class Truth(NamedTuple):
    """In float64, from the inputs as they are."""

    value: float
    log_ratio: Tensor
    """[N] log s."""
    clipped: Tensor
    """[N] the advantage is not zero, yet there is no gradient."""
    hidden: Tensor
    """[T, H] gradient."""
    lm_head: Tensor
    """[V, H] gradient."""

    @property
    def clear(self) -> Tensor:
        """[N] sequences with an advantage whose log s is further than EDGE from both bounds."""
        edges = [(self.log_ratio - math.log(bound)).abs() >= EDGE for bound in (1 - LOW, 1 + HIGH)]
        return edges[0] & edges[1]


def policy(shape: Shape, dtype: torch.dtype = torch.float32, seed: int = 0) -> Policy:
    """A random head with logits of standard deviation SPREAD, rounded to `dtype`, and tokens drawn from it."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(shape.tokens, shape.hidden, generator=generator).to(dtype)
    lm_head = torch.randn(shape.vocabulary, shape.hidden, generator=generator).mul_(SPREAD / shape.hidden**0.5).to(dtype)
    tokens, logp, entropy = [], [], []
    for _, rows in _log_softmax(hidden, lm_head):
        p = rows.exp()
        entropy.append(-torch.einsum("tv,tv->t", p, rows))
        draw = torch.rand(len(rows), 1, generator=generator, dtype=torch.float64)
        drawn = torch.searchsorted(p.cumsum_(1), draw).clamp_(max=shape.vocabulary - 1)
        tokens.append(drawn[:, 0])
        logp.append(rows.gather(1, drawn)[:, 0])
    return Policy(hidden, lm_head, torch.cat(tokens), torch.cat(logp), float(torch.cat(entropy).mean()))


def dense(x: Policy, sequences: int, seed: int = 0) -> Inputs:
    """Equal lengths, an advantage everywhere, nothing clipped: nothing can be skipped."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.full((sequences,), len(x.tokens) // sequences)
    advantage = torch.randn(sequences, generator=generator)
    log_s = torch.empty(sequences).uniform_(-2e-4, 2e-4, generator=generator)
    return with_ratios(x, lengths, advantage, log_s, generator)


def real(x: Policy, sequences: int, group: int, seed: int = 0) -> Inputs:
    """Log-normal lengths; 37.5 % of the groups without an advantage; 15 % of the sequences clipped (rounded)."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(sequences, generator=generator).mul_(0.5).exp_()
    ends = (raw.cumsum(0) / raw.sum() * len(x.tokens)).round().long()
    lengths = ends.diff(prepend=torch.zeros(1, dtype=torch.long)).clamp(min=1)
    groups = sequences // group
    dull = torch.randperm(groups, generator=generator)[: round(0.375 * groups)]
    advantage = torch.randn(groups, group, generator=generator)
    advantage -= advantage.mean(1, keepdim=True)
    advantage[dull] = 0.0
    advantage = advantage.reshape(-1)
    log_s = torch.empty(sequences).uniform_(-2e-4, 2e-4, generator=generator)
    live = torch.nonzero(advantage)[:, 0]
    beyond = live[torch.randperm(len(live), generator=generator)[: round(0.15 * sequences)]]
    log_s[beyond] = advantage[beyond].sign() * 8e-4
    return with_ratios(x, lengths, advantage, log_s, generator)


def with_ratios(x: Policy, lengths: Tensor, advantage: Tensor, log_s: Tensor, generator: torch.Generator) -> Inputs:
    """Old log-probs such that each sequence's mean log-ratio is `log_s`, and its tokens' scatter by 0.02."""
    noise = [torch.randn(int(n), generator=generator, dtype=torch.float64) * 0.02 for n in lengths]
    ratio = torch.cat([part - part.mean() + s for part, s in zip(noise, log_s.double(), strict=True)])
    return Inputs(x.hidden, x.lm_head, x.tokens, lengths, (x.logp - ratio).float(), advantage)


def truth(x: Inputs, logp: Tensor) -> Truth:
    """Value and gradients by scalar formulas over sequences and blocks of rows, in float64."""
    value, weight = 0.0, torch.zeros(len(x.tokens), dtype=torch.float64)
    log_ratio, clipped = [], []
    sequences, start = len(x.lengths), 0
    for n, a in zip(x.lengths.tolist(), x.advantage.tolist(), strict=True):
        part = slice(start, start + n)
        log_s = float((logp[part] - x.old_logp[part].double()).mean())
        s = math.exp(log_s)
        beyond = s > 1 + HIGH if a > 0 else s < 1 - LOW
        value -= min(s * a, min(max(s, 1 - LOW), 1 + HIGH) * a) / sequences
        weight[part] = 0.0 if beyond else -s * a / n / sequences
        log_ratio.append(log_s)
        clipped.append(beyond and a != 0)
        start += n
    head = x.lm_head.double()
    d_hidden, d_head = torch.empty(x.hidden.shape, dtype=torch.float64), torch.zeros_like(head)
    for rows, block in _log_softmax(x.hidden, head):
        tile = block.exp_().mul_(-weight[rows, None])
        tile.scatter_add_(1, x.tokens[rows, None], weight[rows, None])
        torch.mm(tile, head, out=d_hidden[rows])
        d_head.addmm_(tile.T, x.hidden[rows].double())
    return Truth(value, torch.tensor(log_ratio, dtype=torch.float64), torch.tensor(clipped), d_hidden, d_head)


def _log_softmax(hidden: Tensor, lm_head: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, [n, V] float64 log-probs), some rows at a time."""
    head = lm_head.double()
    step = max(1, 2**24 // len(head))
    for start, stop in itertools.pairwise([*range(0, len(hidden), step), len(hidden)]):
        yield slice(start, stop), torch.log_softmax(hidden[start:stop].double() @ head.T, dim=1)
