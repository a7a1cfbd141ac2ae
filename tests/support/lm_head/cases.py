"""Random losses on hidden states, and their float64 truth from full logits. Their error budget is in agreement.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import gspo_torch
import numpy as np
import pytest
import torch
from gspo_torch import KLTerm
from hypothesis import strategies as st
from torch import Tensor

from gspo_core import GSPO, Objective, Packed, Padded, PerToken, TokenKL, kl_penalty, policy_loss
from gspo_core.kl import K3, KLEstimator
from gspo_core.layouts import Layout
from gspo_core.objectives import LinearLoss

WIDER = GSPO.with_clip(0.03, 0.04)
"""Bounds that the rounding of float32 log-probs stays clear of."""
PARAMETERS = ("hidden", "lm_head", "bias")


class Answer(NamedTuple):
    """What a loss on hidden states is judged by."""

    value: Tensor
    logp: Tensor | None
    """Token array, 0 in masked slots; None if it was not asked for."""
    weight: Tensor
    """Token array: ∂value/∂logp."""
    gradients: dict[str, Tensor]
    """By parameter."""


@dataclass(frozen=True)
class Problem:
    """Arguments of linear_policy_loss. Parameters are leaves or None."""

    hidden: Tensor
    lm_head: Tensor
    bias: Tensor | None
    tokens: Tensor
    old_logp: Tensor | None
    advantage: Tensor | PerToken
    layout: Layout
    objective: Objective = WIDER
    options: dict[str, Any] = field(default_factory=dict)
    """temperature, soft_cap, kl, entropy_bonus, denominator, on_policy."""

    def to(self, dtype: torch.dtype) -> Problem:
        """Parameters rounded to dtype; everything else to float32, or float64 with it."""
        wide = dtype if dtype == torch.float64 else torch.float32
        leaves = {name: _leaf(getattr(self, name), dtype) for name in PARAMETERS}
        per_token = isinstance(self.advantage, PerToken)
        values = self.advantage.values if isinstance(self.advantage, PerToken) else self.advantage
        options, kl = dict(self.options), self.options.get("kl")
        if kl is not None:
            options["kl"] = KLTerm(kl.estimator, kl.ref_logp.to(wide), kl.coefficient)
        old = None if self.old_logp is None else self.old_logp.to(wide)
        advantage = PerToken(values.to(wide)) if per_token else values.to(wide)
        return replace(self, **leaves, old_logp=old, advantage=advantage, options=options)

    def leaves(self) -> dict[str, Tensor]:
        """The parameters that gradients are asked for."""
        found = {name: getattr(self, name) for name in PARAMETERS}
        return {name: x for name, x in found.items() if x is not None and x.requires_grad}

    def loss(self, **more: Any) -> LinearLoss:
        """What is tested."""
        arguments = (self.hidden, self.lm_head, self.tokens, self.old_logp, self.advantage, self.layout)
        return gspo_torch.linear_policy_loss(self.objective, *arguments, bias=self.bias, **{**self.options, **more})


def _leaf(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.detach().to(dtype).requires_grad_(x.requires_grad)


def ours(problem: Problem, **more: Any) -> Answer:
    """linear_policy_loss and its gradients."""
    loss = problem.loss(**more)
    leaves = problem.leaves()
    gradients = torch.autograd.grad(loss.value, list(leaves.values()))
    return Answer(loss.value.detach(), loss.logp, loss.logp_grad, dict(zip(leaves, gradients, strict=True)))


def logits_of(problem: Problem, dtype: torch.dtype, leaves: dict[str, Tensor]) -> Tensor:
    """[..., V] all logits at once, masked states and ids made harmless first."""
    valid = problem.layout.valid[..., None]
    hidden, head, bias = (leaves.get(name, getattr(problem, name)) for name in PARAMETERS)
    z = torch.where(valid, hidden, 0.0).to(dtype) @ head.to(dtype).T
    z = z if bias is None else z + bias.to(dtype)
    cap = problem.options.get("soft_cap")
    z = z if cap is None else cap * torch.tanh(z / cap)
    return z / problem.options.get("temperature", 1.0)


def log_softmax_of(problem: Problem, dtype: torch.dtype, leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """([..., V] log-probs of the vocabulary, those of the tokens)."""
    log_p = torch.log_softmax(logits_of(problem, dtype, leaves), -1)
    tokens = torch.where(problem.layout.valid, problem.tokens, 0).long()
    return log_p, log_p.gather(-1, tokens[..., None])[..., 0]


def from_logits(problem: Problem, dtype: torch.dtype = torch.float64) -> Answer:
    """The same from full logits, everything in `dtype`: with float64 the truth, with float32 the naive path."""
    leaves = {name: x.detach().to(dtype).requires_grad_() for name, x in problem.leaves().items()}
    layout, options = problem.layout, problem.options
    log_p, logp = log_softmax_of(problem, dtype, leaves)
    old = None if problem.old_logp is None else problem.old_logp.to(dtype)
    kept = {name: options[name] for name in ("denominator", "on_policy") if name in options}
    loss = policy_loss(problem.objective, logp.detach(), old, problem.advantage, layout, **kept)
    value, c, moved = loss.value, loss.logp_grad, torch.zeros((), dtype=dtype)
    kl = options.get("kl")
    if kl is not None:
        before = logp.detach() if old is None else old
        term = kl_penalty(
            kl.estimator,
            logp.detach(),
            kl.ref_logp.to(dtype),
            layout,
            reduction=problem.objective.reduction,
            old_logp=before if kl.estimator.off_policy else None,
            denominator=loss.denominator,
        )
        value, c = value + kl.coefficient * term.value, c + kl.coefficient * term.logp_grad
    if options.get("entropy_bonus") is not None:
        share = problem.objective.reduction.weights(layout, True, loss.denominator)
        entropy = -(log_p.exp() * log_p).sum(-1)
        moved = -options["entropy_bonus"] * torch.where(layout.valid, share * entropy, 0.0).sum()
        value = value + moved.detach()
    surrogate = (torch.where(layout.valid, c * logp, 0.0)).sum() + moved
    gradients = torch.autograd.grad(surrogate, list(leaves.values()), allow_unused=True)
    named = {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(leaves.items(), gradients, strict=True)}
    return Answer(value.detach(), torch.where(layout.valid, logp.detach(), 0.0), c, named)


@contextmanager
def small_pieces(tile: tuple[int, int], least_chunk: int = 1, cache: int = 7) -> Iterator[None]:
    """Every constant that says how work is cut, small: tiny problems then have many pieces, with short last ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gspo_torch.lm_head.two_pass.TILE", tile)
        patch.setattr("gspo_torch.lm_head.schemes.LEAST_CHUNK", least_chunk)
        patch.setattr("gspo_torch.lm_head.blocks.CACHE", cache)
        patch.setattr("gspo_torch.lm_head.exponentials.COLUMNS", 2)
        patch.setattr("gspo_torch.lm_head.exponentials.WIDE", 5)
        yield


def make(
    seed: int = 0,
    lengths: tuple[int, ...] = (3, 5, 0, 1, 4),
    width: int = 6,
    vocabulary: int = 11,
    drift: float = 0.05,
    **more: Any,
) -> Problem:
    """Float64, padded with holes at the end; log ratios of order `drift`; masked slots hold NaN and no token at all."""
    rng = np.random.default_rng(seed)

    def normal(*size: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=size))

    num, longest = len(lengths), max(lengths, default=0)
    mask = torch.arange(longest)[None, :] < torch.tensor(lengths, dtype=torch.int64)[:, None]
    hidden = torch.where(mask[..., None], normal(num, longest, width), torch.nan)
    tokens = torch.where(mask, torch.from_numpy(rng.integers(0, vocabulary, (num, longest))), -(10**6))
    problem = Problem(
        hidden.requires_grad_(),
        (normal(vocabulary, width) * (3 / width**0.5)).requires_grad_(),
        normal(vocabulary).requires_grad_(),
        tokens,
        None,
        normal(num) * torch.from_numpy(rng.random(num) > 0.2),
        Padded(mask),
    )
    problem = replace(problem, **more)
    if problem.options.get("on_policy"):
        return problem
    ratios = drift * (normal(num, 1) + 0.3 * normal(num, longest))
    _, logp = log_softmax_of(problem, torch.float64, {})
    return replace(problem, old_logp=torch.where(mask, logp.detach() - ratios, torch.nan))


def with_kl(problem: Problem, estimator: KLEstimator, seed: int = 0) -> Problem:
    """With a KL term to a reference half a nat away."""
    _, logp = log_softmax_of(problem, torch.float64, {})
    noise = 0.5 * torch.from_numpy(np.random.default_rng(seed).normal(size=tuple(logp.shape)))
    ref = torch.where(problem.layout.valid, logp.detach() + noise, torch.nan)
    return replace(problem, options={**problem.options, "kl": KLTerm(estimator, ref, 0.3)})


def packed(problem: Problem, seed: int | None) -> Problem:
    """The same tokens in one axis, masked slots included; with a seed, sequences interleaved at random."""
    mask = problem.layout.valid
    order = torch.arange(mask.numel())
    if seed is not None:
        order = torch.from_numpy(np.random.default_rng(seed).permutation(mask.numel()))
    ids = torch.where(mask, torch.arange(len(mask))[:, None], -1).reshape(-1)[order]

    def flat(x: Any) -> Any:
        return None if x is None else x.detach().reshape(mask.numel(), *x.shape[2:])[order]

    options, kl = dict(problem.options), problem.options.get("kl")
    if kl is not None:
        options["kl"] = replace(kl, ref_logp=flat(kl.ref_logp))
    advantage = problem.advantage
    return replace(
        problem,
        hidden=flat(problem.hidden).requires_grad_(problem.hidden.requires_grad),
        tokens=flat(problem.tokens),
        old_logp=flat(problem.old_logp),
        advantage=PerToken(flat(advantage.values)) if isinstance(advantage, PerToken) else advantage,
        layout=Packed(ids, len(mask)),
        options=options,
    )


@st.composite
def problems(draw: st.DrawFn, objectives: tuple[Objective, ...] = (), terms: bool = True) -> Problem:
    """Shapes from nothing to a few dozen tokens, every option in every combination."""
    seed = draw(st.integers(0, 2**32 - 1))
    lengths = tuple(draw(st.lists(st.integers(0, 6), min_size=0, max_size=6)))
    options: dict[str, Any] = {"temperature": draw(st.sampled_from([1.0, 0.7])), "soft_cap": draw(st.sampled_from([None, 4.0]))}
    if draw(st.booleans()):
        options["denominator"] = 5.0
    if draw(st.sampled_from([False, False, True])):
        options["on_policy"] = True
    estimator = draw(st.sampled_from([None, K3(), TokenKL()])) if terms else None
    if terms and draw(st.booleans()):
        options["entropy_bonus"] = 0.2
    more: dict[str, Any] = {"options": options}
    if objectives:
        more["objective"] = draw(st.sampled_from(objectives))
    if more.get("objective", GSPO).ratio.per_token and draw(st.booleans()):
        noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(lengths), max(lengths, default=0))))
        more["advantage"] = PerToken(torch.where(noise > 0.0, noise - 1.0, 0.0))
    if draw(st.booleans()):
        more["bias"] = None
    sizes = {"width": draw(st.integers(1, 8)), "vocabulary": draw(st.integers(1, 23))}
    problem = make(seed, lengths, **sizes, drift=draw(st.sampled_from([1e-4, 0.05, 0.5])), **more)
    problem = problem if estimator is None else with_kl(problem, estimator, seed)
    kind = draw(st.sampled_from(["padded", "packed", "interleaved"]))
    return problem if kind == "padded" else packed(problem, seed if kind == "interleaved" else None)
