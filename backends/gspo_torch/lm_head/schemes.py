"""The choice of the scheme that computes a loss on hidden states, and the autograd function of both schemes.

The two-pass scheme keeps log-sum-exps and weights and computes the gradients in backward. The aligned scheme computes the
gradients in forward; backward scales and returns them. Either way they are rounded to the parameters' dtypes once, after the
upstream factor: loss scaling is there for gradients that float16 would lose without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gspo_torch.distributed import VocabularyShard

from . import aligned, exponentials, two_pass
from .blocks import Weights, cached_logits
from .head import Head, check_ids
from .logp import head_gradients, once, spread
from .products import piece_bytes
from .terms import Terms, Weighed
from .two_pass import Gradients

LEAST_CHUNK = 64
"""Rows of logits below which most of the aligned scheme's time would be spent on passes over the head's gradient."""


@dataclass(frozen=True, eq=False)
class Job:
    """The inputs of a forward pass beside the parameters."""

    terms: Terms
    options: tuple[float, float | None, VocabularyShard | None]
    tokens: Tensor
    """[n] ids of the tokens that need a forward pass."""
    places: Tensor | None
    """[n] their flat places in the layout; None: every slot of the layout, in order."""
    base: Tensor
    """Token array: the log-probs assumed for all other tokens, so that their ratio is 1."""
    budget_bytes: int
    entropy: bool
    """Whether entropies are wanted, for a bonus or to be looked at."""

    def whole(self, x: Tensor, base: Tensor) -> Tensor:
        """The token array with x at the job's tokens."""
        flat = base.reshape(-1).clone() if self.places is not None else x
        return (flat if self.places is None else flat.index_copy_(0, self.places, x)).reshape(base.shape)

    def mine(self, x: Tensor | None) -> Tensor | None:
        """[n] the job's tokens of a token array."""
        if x is None or self.places is None:
            return x if x is None else x.reshape(-1)
        return x.reshape(-1)[self.places]


def prepare(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    terms: Terms,
    budget_bytes: int,
    *,
    return_logp: bool,
    return_entropy: bool,
) -> Job:
    """The job of one loss. Checks every argument before any work is done."""
    layout = terms.layout
    wide = head.wide(hidden)
    base = torch.zeros(layout.shape, dtype=wide, device=hidden.device)
    old = terms.old_logp
    if isinstance(old, Tensor) and old.is_floating_point() and tuple(old.shape) == tuple(layout.shape):
        base = layout.select(old).to(wide)
    # Checks every argument of the loss, on this rank's part alone.
    terms.weigh(base, base, layout.local)
    every = return_logp or return_entropy
    places: Tensor | None = torch.nonzero(layout.valid.reshape(-1))[:, 0] if every else terms.needed_tokens(layout)
    assert places is not None
    flat = tokens.reshape(-1)
    if len(places) == len(flat):
        places = None
    else:
        flat = flat[places]
    check_ids(flat, head)
    entropy = return_entropy or terms.entropy_bonus is not None
    return Job(terms, (head.temperature, head.soft_cap, head.shard), flat, places, base, budget_bytes, entropy)


class LinearFunction(torch.autograd.Function):
    """(value, `Weighed`, log-probs, entropies), of which the value is differentiable, once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, lm_head: Tensor, bias: Tensor | None, job: Job, differentiable: bool
    ) -> tuple[Tensor, Weighed, Tensor, Tensor | None]:
        """Log-probs by one of the two schemes, then the terms' value and weights; what the backward needs is kept."""
        head = Head(lm_head, bias, *job.options)
        rows = hidden.reshape(-1, hidden.shape[-1])
        rows = (rows if job.places is None else rows[job.places]).contiguous()
        wanted = tuple(x and differentiable for x in ctx.needs_input_grad[:3])
        buffer = _buffer(head, rows, job, wanted)
        ctx.job, ctx.wanted, ctx.finished = job, wanted, None
        with torch.autocast(hidden.device.type, enabled=False):
            if buffer is not None and buffer.rows >= LEAST_CHUNK and any(wanted):
                seen, ctx.finished = _aligned(head, rows, job, buffer, wanted)
                scored = two_pass.Scored(seen.logp, seen.logp, seen.entropy, None)
            else:
                scored = two_pass.forward(head, rows, job.tokens, job.entropy)
            logp = job.whole(scored.logp, job.base)
            entropy = None if scored.entropy is None else job.whole(scored.entropy, torch.zeros_like(job.base))
            weighed = job.terms.weigh(logp, entropy)
        if ctx.finished is None and any(wanted):
            mean = None if scored.entropy is None or weighed.e is None else scored.lse - scored.entropy
            # The ids may be the caller's own memory: saved, they are refused if they change before backward.
            kept = (job.tokens, job.mine(weighed.c), scored.lse, job.mine(weighed.e), mean)
            ctx.save_for_backward(hidden, lm_head, bias, *kept)
        elif ctx.finished is not None:
            ctx.save_for_backward(hidden, lm_head, bias)
        ctx.mark_non_differentiable(*(x for x in (logp, entropy) if x is not None))
        return weighed.value.clone(), weighed, logp, entropy

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Gradients for hidden states, LM head and bias, all multiplied by upstream before they are rounded."""
        job: Job = ctx.job
        hidden, lm_head, bias, *rest = ctx.saved_tensors
        if rest:
            gradients = _two_pass_gradients(ctx, upstream, hidden, lm_head, bias, rest)
        else:
            if ctx.finished is None:
                raise RuntimeError(
                    "linear_policy_loss: the aligned scheme keeps its gradients for one backward only; for a second one "
                    "through the same loss pass budget_bytes=0"
                )
            finished, ctx.finished = zip(ctx.finished, (hidden, lm_head, bias), strict=True), None
            gradients = tuple(None if g is None else _times(g, upstream).to(x.dtype) for g, x in finished)
            gradients = (_at_places(gradients[0], job, hidden), *gradients[1:])
        return *once(gradients, upstream, hidden, lm_head, bias), None, None


def _buffer(head: Head, rows: Tensor, job: Job, wanted: tuple[bool, ...]) -> aligned.Buffer | None:
    """Memory for logits that the aligned scheme may hold; None if the scheme cannot be used."""
    sharded = job.terms.layout.local is not job.terms.layout or head.shard is not None
    if rows.is_cuda or sharded or head.soft_cap is not None or job.terms.entropy_bonus is not None or not len(head.weight):
        return None
    wide = head.wide(rows)
    kept = [x for x, needed in zip((rows, head.weight, head.bias), wanted, strict=True) if needed and x is not None]
    sums = sum(x.numel() for x in kept if x.dtype != wide) * wide.itemsize
    block = min(exponentials.COLUMNS, len(head.weight))
    beside = sums + piece_bytes(block, rows.shape[1], wide)
    beside += cached_logits(min(exponentials.WIDE, len(head.weight))) * wide.itemsize if job.entropy else 0
    return aligned.Buffer(max(0, job.budget_bytes - beside) // wide.itemsize, len(head.weight))


def _aligned(
    head: Head, rows: Tensor, job: Job, buffer: aligned.Buffer, wanted: tuple[bool, ...]
) -> tuple[aligned.Seen, tuple[Tensor | None, ...]]:
    """(log-probs and entropies [n], gradients of the value for rows, weight and bias).

    The gradients stay in the accumulator's dtype: backward multiplies them by the upstream factor, and then rounds them.
    """
    terms, layout, wide = job.terms, job.terms.layout, head.wide(rows)
    into = Gradients(
        torch.empty(rows.shape, dtype=wide, device=rows.device) if wanted[0] else None,
        torch.empty(head.weight.shape, dtype=wide, device=rows.device) if wanted[1] else None,
        torch.empty(len(head.weight), dtype=wide, device=rows.device) if wanted[2] else None,
    )
    # Exact in float32 up to 2**24 sequences.
    owner = job.mine(layout.spread(torch.arange(layout.num_sequences, dtype=torch.float32, device=rows.device)))
    assert owner is not None
    order = torch.argsort(owner, stable=True)
    _, counts = torch.unique_consecutive(owner[order], return_counts=True)
    grouped = bool((order[1:] > order[:-1]).all())
    inner, ids = (rows, job.tokens) if grouped else (rows[order], job.tokens[order])
    logp = job.mine(job.base)
    assert logp is not None
    logp = logp.clone()
    known = job.mine(terms.weigh(job.base, None).c) if terms.on_policy and terms.kl is None else None

    def weigh(part: slice, at: Tensor) -> Tensor:
        mine = order[part]
        logp[mine] = at
        weights = known if known is not None else job.mine(terms.weigh(job.whole(logp, job.base), None).c)
        assert weights is not None
        return weights[mine].to(wide)

    lengths = [1] * len(inner) if known is not None else counts.tolist()
    seen = aligned.run(head, inner, ids, aligned.chunks(lengths, buffer), weigh, into, job.entropy)

    def back(x: Tensor | None) -> Tensor | None:
        return x if grouped or x is None else torch.empty_like(x).index_copy_(0, order, x)

    return aligned.Seen(logp, back(seen.entropy)), (back(into.hidden), into.weight, into.bias)


def _two_pass_gradients(
    ctx: Any, upstream: Tensor, hidden: Tensor, lm_head: Tensor, bias: Tensor | None, rest: list[Any]
) -> tuple[Tensor | None, ...]:
    tokens, c, lse, e, mean = rest
    job: Job = ctx.job
    rows = hidden.reshape(-1, hidden.shape[-1])
    rows = (rows if job.places is None else rows[job.places]).contiguous()
    scale = upstream.to(lse.dtype)
    weights = Weights(c.to(lse.dtype) * scale, lse, None if e is None else e.to(lse.dtype) * scale, mean)
    d_rows, *others = head_gradients(Head(lm_head, bias, *job.options), rows, tokens, weights, ctx.wanted)
    return _at_places(d_rows, job, hidden), *others


def _at_places(gradient: Tensor | None, job: Job, hidden: Tensor) -> Tensor | None:
    """The rows' gradient in the shape of `hidden`, 0 in the slots that have no row. None stays None."""
    if gradient is not None and job.places is not None:
        gradient = spread(gradient, job.places, hidden.reshape(-1, hidden.shape[-1]).detach())
    return None if gradient is None else gradient.reshape(hidden.shape)


def _times(gradient: Tensor, upstream: Tensor) -> Tensor:
    """The gradient times a number, in place."""
    return gradient if not upstream.is_cuda and float(upstream) == 1.0 else gradient.mul_(upstream.to(gradient.dtype))
