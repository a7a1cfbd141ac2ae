"""Log-probabilities of the sampled tokens from hidden states and the LM head, without the [T, V] logits.

Logits are computed tile by tile, and again in backward. Logits and everything after them are float32: rounding logits to
bfloat16 changes log s by as much as GSPO's clip range.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gspo_core.backend import check_flag
from gspo_core.layouts import Layout
from gspo_core.types import TokenScores
from gspo_torch.distributed import VocabularyShard

from .blocks import Weights
from .head import Head, admit, check_head, check_ids, check_slots
from .two_pass import Gradients, backward, forward


class Wanted(NamedTuple):
    """What is computed beside the log-probs."""

    entropy: bool = False
    moving: bool = False
    """Whether the entropies are differentiable."""
    squares: bool = False
    """Σ_v π_v²."""


def token_logp(
    hidden: Tensor,
    lm_head: Tensor,
    tokens: Tensor,
    *,
    layout: Layout | None = None,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    vocabulary: VocabularyShard | None = None,
    static: bool = False,
) -> Tensor:
    """log π(token) = z[token] − log Σ_v exp z[v] with z = cap(lm_head · hidden + bias) / temperature, in nats.

    Args:
        hidden: [..., H] final hidden states, at the positions that predict `tokens`; any real floating dtype.
        lm_head: [V, H] the output embedding's weight.
        tokens: [...] integer token ids in [0, V).
        layout: which slots hold tokens of the policy. `hidden` is then [*layout.shape, H], `tokens` is a token array, and
            masked slots are neither read nor computed: they may hold NaN and ids such as −100. Without a layout every slot is
            a token, and each costs a row of logits.
        bias: [V] of the output embedding, if it has one.
        temperature: the sampling temperature.
        soft_cap: the c of Gemma's c · tanh(z / c); None: the logits are not capped.
        vocabulary: which rows `lm_head` holds, if the head is spread over ranks. All ranks of its group call together.
        static: read nothing from the device, and torch.compile(fullgraph=True) takes the call as one graph. Then ids are not
            checked (one outside [0, V) has log-prob −∞), and every slot costs a row of logits, masked or without a gradient.

    `lm_head` and `bias` may be DTensors: they are gathered, and their gradient is the mean over the mesh's ranks, as in FSDP2.

    Returns: [...] float32 (float64 for float64 inputs), exactly 0 in masked slots, differentiable once with respect to hidden,
    lm_head and bias; gradients are accumulated in float32 and returned in the parameters' dtypes, exactly 0 in masked slots
    of hidden. A second derivative is refused with a RuntimeError.

    Raises: TypeError for a wrong dtype, ValueError for a wrong shape, temperature, cap or token id, naming the argument.

    >>> import torch
    >>> hidden, head = torch.zeros(2, 5, 8), torch.randn(10, 8)
    >>> logp = token_logp(hidden, head, torch.zeros(2, 5, dtype=torch.int64))
    >>> logp.shape, bool(torch.allclose(logp.exp(), torch.tensor(0.1)))
    (torch.Size([2, 5]), True)
    >>> from gspo_core import Padded
    >>> tokens = torch.tensor([[3, 1, -100], [2, -100, -100]])
    >>> token_logp(torch.zeros(2, 3, 8), torch.randn(4, 8), tokens, layout=Padded(tokens >= 0)).exp().tolist()
    [[0.25, 0.25, 1.0], [0.25, 1.0, 1.0]]
    """
    head = Head(lm_head, bias, temperature, soft_cap, vocabulary)
    return _score(hidden, head, tokens, layout, Wanted(), static)[0]


def token_scores(
    hidden: Tensor,
    lm_head: Tensor,
    tokens: Tensor,
    *,
    entropy_gradient: bool = False,
    sum_pi_squared: bool = False,
    layout: Layout | None = None,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    vocabulary: VocabularyShard | None = None,
    static: bool = False,
) -> TokenScores:
    """`token_logp`, and the entropy −Σ_v π_v log π_v of each token's distribution, in the same pass; Σ_v π_v² on request.

    Args:
        hidden, lm_head, tokens, layout, bias, temperature, soft_cap, vocabulary, static: as for `token_logp`.
        entropy_gradient: whether the entropy is differentiable. If not, it is a constant and no memory is kept for backward.

        sum_pi_squared: whether Σ_v π_v² is computed, too, for `optimal_token_advantages`; a constant.

    Returns: `TokenScores`, arrays of the shape and dtype of `token_logp`, exactly 0 in masked slots; None for what was not
    asked for.

    Raises: the errors of `token_logp`.

    >>> import torch
    >>> scores = token_scores(torch.zeros(1, 8), torch.randn(4, 8), torch.tensor([3]))
    >>> scores.logp.shape, bool(torch.allclose(scores.entropy, torch.tensor(4.0).log()))
    (torch.Size([1]), True)
    """
    head = Head(lm_head, bias, temperature, soft_cap, vocabulary)
    check_flag("entropy_gradient", entropy_gradient)
    check_flag("sum_pi_squared", sum_pi_squared)
    wanted = Wanted(True, entropy_gradient, sum_pi_squared)
    logp, entropy, squares = _score(hidden, head, tokens, layout, wanted, static)
    return TokenScores(logp, entropy, squares if sum_pi_squared else None)


def _score(
    hidden: Tensor,
    head: Head,
    tokens: Tensor,
    layout: Layout | None,
    wanted: Wanted,
    static: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probs, entropies, Σ π²), each of the shape of `tokens`; what is not wanted is empty."""
    check_flag("static", static)
    hidden, head, tokens, layout = admit(hidden, head, tokens, layout)
    check_head(hidden, head, tokens)
    rows, ids = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1)
    places: Tensor | None = None
    if layout is not None:
        check_slots(layout, tokens)
    if static:
        return score_every_slot(rows, head, tokens, layout, wanted)
    if layout is not None:
        live = torch.nonzero(layout.valid.reshape(-1))[:, 0]
        if len(live) < len(ids):
            rows, ids, places = rows.index_select(0, live), ids.index_select(0, live), live
    check_ids(ids, head)
    logp, *more = _Scores.apply(rows.contiguous(), head.weight, head.bias, head, ids, wanted, static)
    asked = (wanted.entropy, wanted.squares)
    entropy, squares = (_at(x, places, tokens.shape) if y else x for x, y in zip(more, asked, strict=True))
    return _at(logp, places, tokens.shape), entropy, squares


def score_every_slot(
    rows: Tensor, head: Head, tokens: Tensor, layout: Layout | None, wanted: Wanted
) -> tuple[Tensor, Tensor, Tensor]:
    """`_score` with shapes that do not depend on any number: masked slots are rows of zeros, left out at last."""
    ids = tokens.reshape(-1)
    valid = torch.ones_like(ids, dtype=torch.bool) if layout is None else layout.valid.reshape(-1)
    inside = (ids >= 0) & (ids < head.vocabulary)
    rows, ids = torch.where(valid[:, None], rows, 0.0), torch.where(valid & inside, ids, 0)
    logp, *more = _Scores.apply(rows.contiguous(), head.weight, head.bias, head, ids, wanted, True)
    logp = torch.where(valid, torch.where(inside, logp, -torch.inf), 0.0).reshape(tokens.shape)
    asked = (wanted.entropy, wanted.squares)
    entropy, squares = (torch.where(valid, x, 0.0).reshape(tokens.shape) if y else x for x, y in zip(more, asked, strict=True))
    return logp, entropy, squares


def _at(x: Tensor, places: Tensor | None, shape: torch.Size) -> Tensor:
    """x of some tokens as an array of this shape, 0 in all other slots."""
    return (x if places is None else x.new_zeros(shape.numel()).index_copy(0, places, x)).reshape(shape)


class _Scores(torch.autograd.Function):
    """Log-probs and entropies of tokens under an LM head, by the two-pass scheme: no pass holds all logits."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        tokens: Tensor,
        wanted: Wanted,
        static: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(log-probs, entropies, Σ π²) of the rows' tokens; empty unless they are asked for."""
        with torch.autocast(rows.device.type, enabled=False):
            scored = forward(head, rows, tokens, wanted.entropy, wanted.squares)
        entropy, squares = (scored.lse.new_zeros(0) if x is None else x for x in (scored.entropy, scored.sum_squares))
        mean = scored.lse - entropy if wanted.moving else None
        ctx.save_for_backward(rows, weight, bias, tokens, scored.lse, mean)
        ctx.options, ctx.static = (head.temperature, head.soft_cap, head.shard), static
        ctx.mark_non_differentiable(squares, *(() if wanted.moving else (entropy,)))
        return scored.logp, entropy, squares

    @staticmethod
    def backward(ctx: Any, c: Tensor, e: Tensor, _squares: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for rows, weight and bias, given those of the log-probs, c, and of the entropies, e."""
        rows, weight, bias, tokens, lse, mean = ctx.saved_tensors
        head = Head(weight, bias, *ctx.options)
        weights = Weights(c.to(lse.dtype), lse, None if mean is None else e.to(lse.dtype), mean)
        gradients = head_gradients(head, rows, tokens, weights, ctx.needs_input_grad[:3], ctx.static)
        return *once(gradients, c, e, rows, weight, bias), None, None, None, None, None


def head_gradients(
    head: Head, rows: Tensor, tokens: Tensor, weights: Weights, wanted: tuple[bool, ...], static: bool = False
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients for (rows, weight, bias) in the parameters' dtypes, by the two-pass scheme; rows without weight are skipped
    unless `static`."""
    live = None if static else _weighted(weights)
    num = len(rows) if live is None else len(live)
    into = Gradients(
        torch.empty(num, rows.shape[1], dtype=head.wide(rows), device=rows.device) if wanted[0] else None,
        torch.empty_like(head.weight) if wanted[1] else None,
        torch.empty_like(head.bias) if wanted[2] and head.bias is not None else None,
    )
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        if live is None or num == len(rows):
            backward(head, rows, tokens, weights, into)
            return None if into.hidden is None else into.hidden.to(rows.dtype), into.weight, into.bias
        backward(head, rows[live], tokens[live], weights.rows(live), into)
        return spread(into.hidden, live, rows), into.weight, into.bias


def _weighted(weights: Weights) -> Tensor:
    """The indices of rows with a weight."""
    dead = weights.c == 0 if weights.e is None else (weights.c == 0) & (weights.e == 0)
    return torch.nonzero(~dead)[:, 0]


def spread(gradient: Tensor | None, live: Tensor, like: Tensor) -> Tensor | None:
    """The gradient of some rows, scattered to their places; 0 elsewhere."""
    if gradient is None:
        return None
    return torch.zeros_like(like).index_copy_(0, live, gradient.to(like.dtype))


def once(gradients: tuple[Tensor | None, ...], *sources: Tensor | None) -> tuple[Tensor | None, ...]:
    """The same gradients, such that a second derivative (create_graph=True) is refused with an error."""
    if not torch.is_grad_enabled():
        return gradients
    graph = [x for x in sources if x is not None]
    return tuple(None if g is None else _NoSecondDerivative.apply(g, *graph) for g in gradients)


class _NoSecondDerivative(torch.autograd.Function):
    """The identity on a gradient, whose backward raises. Without it the second derivative would silently be 0."""

    @staticmethod
    def forward(_ctx: Any, gradient: Tensor, *_sources: Tensor) -> Tensor:
        """The gradient itself, with the sources in its graph."""
        return gradient.view_as(gradient)

    @staticmethod
    def backward(_ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Raises RuntimeError: a second derivative was asked for."""
        raise RuntimeError("LM head: its gradient cannot be differentiated again; take log_softmax of full logits instead")
