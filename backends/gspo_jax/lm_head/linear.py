"""From hidden states to the loss and its gradients, without ever holding tokens × vocabulary.

The objective is known here, so that more can be left out than `token_logp` could: masked tokens and sequences without an
advantage need no forward pass, clipped ones no backward pass. Two exact schemes share the work (see `two_pass` and
`aligned`); `budget_bytes` says how much memory may be spent on the faster one.
"""

from __future__ import annotations

import jax
from jax import lax

from gspo_core import Objective, PerToken
from gspo_core.backend import active_tokens, check_positive
from gspo_core.kl import KLTerm
from gspo_core.layouts import Layout
from gspo_core.objectives import LinearLoss

from .head import Array, Head, Options, VocabularyAxis, check_head, check_slots, first_row, mesh_axes, token_ids, varying, wide
from .schemes import Job, aligned_loss, cut_for
from .terms import Constants, Terms
from .two_pass import flat_scores

BUDGET_BYTES = 2**28
"""256 MiB."""


def linear_policy_loss(
    objective: Objective,
    hidden: Array,
    lm_head: Array,
    tokens: Array,
    old_logp: Array | None,
    advantage: Array | PerToken,
    layout: Layout,
    *,
    denominator: float | Array | None = None,
    on_policy: bool = False,
    bias: Array | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    kl: KLTerm | None = None,
    entropy_bonus: float | None = None,
    return_logp: bool = False,
    vocabulary: VocabularyAxis | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> LinearLoss:
    """`policy_loss(objective, token_logp(hidden, lm_head, tokens), ...)` in one, for less time and memory.

    Args:
        objective, old_logp, advantage, layout, denominator, on_policy: as for `policy_loss`.
        hidden: [*layout.shape, H] final hidden states, at the positions that predict `tokens`. What stands in masked slots
            is never read.
        lm_head, tokens, bias, temperature, soft_cap, vocabulary: as for `token_logp`; masked slots of `tokens` may hold
            anything.
        return_logp: also return the log-probs of every valid token (as the next updates' `old_logp`, or for metrics):
            sequences without an advantage then go through the forward pass, too.
        budget_bytes: memory for exponentials of logits and float32 sums beyond the gradients; static. On a CPU, if it holds
            64 tokens' logits, everything goes the aligned way, 3 matrix products (4 for the beginning of a sequence that is
            longer than what it holds); else, and in any case 0, two-pass: 4 products and a tile. With `vocabulary`,
            `soft_cap` or a sharded layout everything goes two-pass. A head in float16 or bfloat16 needs V × H × 4 bytes of
            it for the aligned way's sums. Under vmap it is the budget of each.

    Sequences without an advantage are left out of forward and backward, clipped ones of backward: their gradients are zero.
    Shapes are static all the same: tokens are sorted, and no loop goes to those that are left out.

    Returns: `LinearLoss`. Only `value` is differentiable: in reverse mode, and forward over reverse (a Hessian-vector
    product) is exact. Forward mode alone is refused by JAX (a TypeError). Under grad, jit, scan, remat and shard_map as
    `policy_loss`; the context axis is the layout's, the vocabulary's is `vocabulary`.

    Raises: TypeError and ValueError as `policy_loss` and `token_logp` do, ValueError for a negative budget.

    >>> import jax, jax.numpy as jnp
    >>> from gspo_core import GSPO, Padded
    >>> tokens, mask = jnp.zeros((2, 3), dtype=jnp.int32), jnp.array([[True, True, True], [True, False, False]])
    >>> batch = (tokens, jnp.full((2, 3), -jnp.log(5.0)), jnp.array([1.0, -1.0]), Padded(mask))
    >>> loss = linear_policy_loss(GSPO, jnp.zeros((2, 3, 8)), jnp.ones((5, 8)), *batch)
    >>> round(loss.value.item(), 6), loss.logp_grad[0].tolist()
    (0.0, [-0.1666666716337204, -0.1666666716337204, -0.1666666716337204])
    """
    head, options = Head(lm_head, bias), Options(temperature, soft_cap, vocabulary)
    check_head(hidden, head, tokens)
    check_slots(layout, tokens)
    if kl is not None and not isinstance(kl, KLTerm):
        raise TypeError(f"kl: expected a KLTerm(estimator, ref_logp, coefficient) or None, got {type(kl).__name__}")
    if entropy_bonus is not None:
        check_positive("entropy_bonus", entropy_bonus)
    if not isinstance(budget_bytes, int) or budget_bytes < 0:
        raise ValueError(f"budget_bytes: expected a number of bytes, 0 or more, got {budget_bytes!r}")
    kind, terms = wide(hidden, lm_head), Terms(objective, on_policy, entropy_bonus)
    x = Constants(*(lax.stop_gradient(constant) for constant in (old_logp, advantage, layout, denominator, kl)))
    job = Job(terms, options, cut_for(budget_bytes, head, options, terms, x, kind))
    # The door: every argument of the loss is checked before any work.
    token_array = jax.ShapeDtypeStruct(layout.shape, kind)
    jax.eval_shape(lambda logp, entropy: terms.weigh(logp, entropy, x).value, token_array, token_array)
    every_token = return_logp or kl is not None or entropy_bonus is not None
    live = (layout.valid if every_token else active_tokens(objective, advantage, layout)).reshape(-1)
    value, logp, entropy = _scored_loss(job, hidden, head, tokens, live, x)
    logp, entropy = lax.stop_gradient((logp, entropy))
    weighed = job.weigh(logp, entropy, live, x)
    has_terms = kl is not None or entropy_bonus is not None
    return LinearLoss(
        *weighed.policy._replace(value=value, logp_grad=weighed.logp_grad),
        logp=logp.reshape(layout.shape) if return_logp else None,
        entropy=None if entropy is None else entropy.reshape(layout.shape),
        kl=weighed.kl,
        policy=weighed.policy if has_terms else None,
    )


def _scored_loss(
    job: Job, hidden: Array, head: Head, tokens: Array, live: Array, x: Constants
) -> tuple[Array, Array, Array | None]:
    """([] differentiable value, [T] log-probs, [T] entropies or None without a bonus)."""
    options = job.options
    rows, flat = hidden.reshape(-1, hidden.shape[-1]), token_ids(tokens)
    # Inside shard_map, gradients are a rank's own; the transpose of `varying` sums those of an array that several ranks share.
    axes = mesh_axes(rows, head, flat, live, x, first_row(head, options) if options.axis else ())
    rows, head = varying((rows, head), axes)
    if job.cut is not None:
        return *aligned_loss(job, rows, head, flat, live, x), None
    logp, entropy = flat_scores(options, job.terms.entropy_bonus is not None, rows, head, flat, live)
    return job.weigh(logp, entropy, live, x).value, logp, entropy
