"""From hidden states to the loss and its gradients, without an array of tokens × vocabulary.

Since the objective is known, more work is skipped than by `token_logp`: masked tokens and sequences without an advantage need
no forward pass, clipped sequences no backward pass. There are two exact schemes (modules `two_pass` and `aligned`);
`budget_bytes` limits the memory that the faster one may use.
"""

from __future__ import annotations

from dataclasses import replace

import jax
from jax import lax

from gspo_core import Objective, PerToken
from gspo_core.backend import active_tokens, as_coefficient, as_positive, as_whole, check_term
from gspo_core.kl import KLTerm
from gspo_core.layouts import Layout
from gspo_core.objectives import LinearLoss
from gspo_jax.door import check_arrays, check_flags

from .head import Array, Head, Options, VocabularyAxis, check_head, check_slots, first_row, mesh_axes, token_ids, varying, wide
from .per_token import Wanted
from .schemes import Job, aligned_loss, cut_for
from .terms import Constants, Terms, factor_of
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
    entropy_bonus: float | Array | None = None,
    return_logp: bool = False,
    return_entropy: bool = False,
    vocabulary: VocabularyAxis | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> LinearLoss:
    """`policy_loss(objective, token_logp(hidden, lm_head, tokens), ...)` in one, for less time and memory.

    Args:
        objective, old_logp, advantage, layout, denominator, on_policy: as for `policy_loss`.
        hidden: [*layout.shape, H] final hidden states, at the positions that predict `tokens`. Masked slots are never used.
        lm_head, tokens, bias, temperature, soft_cap, vocabulary: as for `token_logp`; masked slots of `tokens` may hold
            anything.
        kl: adds β · KL to a reference policy to the loss. Clipping and advantages do not affect it.
        entropy_bonus: β of −β · (mean entropy), averaged like the objective's tokens. A number or a [] array of either
            sign, held constant, that may be traced; with 0 entropies are measured and add nothing. None: no bonus.
        return_logp: also return the log-probs of every valid token (as the next updates' `old_logp`, or for metrics):
            the forward pass then includes sequences without an advantage.
        return_entropy: also return the entropy of every valid token's distribution, a constant, from the same pass over the
            logits; the forward pass then includes sequences without an advantage.
        budget_bytes: memory for exponentials of logits and float32 sums beyond the gradients; static. On a CPU, if the logits
            of 64 tokens fit into it, every sequence uses the aligned scheme with 3 matrix products (4 for the beginning of a
            sequence that does not fit); else the two-pass scheme with 4 products and one tile of logits. With an entropy
            bonus, `soft_cap`, `vocabulary` or a sharded layout, and on a GPU or TPU, every sequence uses the two-pass scheme;
            with 0 as well. For a head in float16 or bfloat16, the aligned scheme needs V × H × 4 bytes of the budget for its
            sums. Under vmap it is the budget of each example.

    Sequences without an advantage are left out of forward and backward, clipped sequences of backward: their gradients are 0.
    A KL term or an entropy bonus needs every token. Shapes are static: tokens are sorted, and no loop visits those that are
    left out.

    Returns: `LinearLoss`. Only `value` is differentiable: in reverse mode, and forward over reverse (a Hessian-vector
    product) is exact. Forward mode alone is refused by JAX (a TypeError). It works under grad, jit, scan, remat and shard_map
    like `policy_loss`; the context axis is that of the layout, the vocabulary's axis is `vocabulary`.

    Raises: the errors of `policy_loss` and `token_logp`; TypeError for a `kl` of another type; ValueError for a negative budget
    and for a bonus that is not finite.

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
    check_arrays(old_logp=old_logp, advantage=advantage)
    check_flags(on_policy=on_policy, return_logp=return_logp, return_entropy=return_entropy)
    check_term(kl)
    denominator = None if denominator is None else as_positive("denominator", denominator)
    bonus = None if entropy_bonus is None else factor_of(as_coefficient("entropy_bonus", entropy_bonus))
    kl = None if kl is None else replace(kl, coefficient=factor_of(kl.coefficient))
    budget_bytes = as_whole("budget_bytes", budget_bytes, 0)
    kind, terms = wide(hidden, lm_head), Terms(objective, on_policy, bonus is not None)
    x = Constants(*(lax.stop_gradient(constant) for constant in (old_logp, advantage, layout, denominator, kl, bonus)))
    # Checks every argument of the loss before any work is done.
    token_array = jax.ShapeDtypeStruct(layout.shape, kind)
    jax.eval_shape(lambda logp, entropy: terms.weigh(logp, entropy, x).value, token_array, token_array)
    entropies = return_entropy or terms.has_bonus
    job = Job(terms, options, entropies, cut_for(budget_bytes, head, options, terms, x, kind, entropies))
    every_token = return_logp or entropies or kl is not None
    live = (layout.valid if every_token else active_tokens(objective, advantage, layout)).reshape(-1)
    value, logp, entropy = _scored_loss(job, hidden, head, tokens, live, x)
    logp, entropy = lax.stop_gradient((logp, entropy))
    weighed = job.weigh(logp, entropy, live, x)
    return LinearLoss(
        *weighed.policy._replace(value=value, logp_grad=weighed.logp_grad),
        logp=logp.reshape(layout.shape) if return_logp else None,
        entropy=None if entropy is None else entropy.reshape(layout.shape),
        kl=weighed.kl,
        policy=weighed.policy if kl is not None or terms.has_bonus else None,
    )


def _scored_loss(
    job: Job, hidden: Array, head: Head, tokens: Array, live: Array, x: Constants
) -> tuple[Array, Array, Array | None]:
    """([] differentiable value, [T] log-probs, [T] entropies or None if they are not wanted)."""
    options = job.options
    rows, flat = hidden.reshape(-1, hidden.shape[-1]), token_ids(tokens)
    # Inside shard_map, gradients are a rank's own; the transpose of `varying` sums those of an array that several ranks share.
    axes = mesh_axes(rows, head, flat, live, x, first_row(head, options) if options.axis else ())
    rows, head = varying((rows, head), axes)
    if job.cut is not None:
        return aligned_loss(job, rows, head, flat, live, x)
    logp, entropy, _ = flat_scores(options, Wanted(job.entropy, job.terms.has_bonus), rows, head, flat, live)
    return job.weigh(logp, entropy, live, x).value, logp, entropy
