"""From hidden states to the loss and its gradients, without an array of tokens × vocabulary.

Since the objective is known, more work is skipped than by `token_logp`: masked tokens and sequences without an advantage need
no forward pass, clipped sequences no backward pass. There are two exact schemes (modules `two_pass` and `aligned`);
`budget_bytes` limits the memory that the faster one may use.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gspo_core import Objective, PerToken
from gspo_core.backend import as_coefficient, as_whole, check_flag, check_term
from gspo_core.kl import KLTerm
from gspo_core.layouts import Layout
from gspo_core.objectives import LinearLoss
from gspo_torch.distributed import VocabularyShard
from gspo_torch.door import admitted, admitted_advantage, admitted_term

from .head import Head, admit, check_head, check_slots
from .schemes import LinearFunction, prepare
from .static import static_loss
from .terms import Terms

BUDGET_BYTES = 2**28
"""256 MiB."""


def linear_policy_loss(
    objective: Objective,
    hidden: Tensor,
    lm_head: Tensor,
    tokens: Tensor,
    old_logp: Tensor | None,
    advantage: Tensor | PerToken,
    layout: Layout,
    *,
    denominator: float | Tensor | None = None,
    on_policy: bool = False,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    kl: KLTerm | None = None,
    entropy_bonus: float | Tensor | None = None,
    return_logp: bool = False,
    return_entropy: bool = False,
    vocabulary: VocabularyShard | None = None,
    budget_bytes: int = BUDGET_BYTES,
    static: bool = False,
) -> LinearLoss:
    """`policy_loss(objective, token_logp(hidden, lm_head, tokens), ...)` in one, for less time and memory.

    Args:
        objective, old_logp, advantage, layout, denominator, on_policy: as for `policy_loss`.
        hidden: [*layout.shape, H] final hidden states, at the positions that predict `tokens`. Masked slots are never read.
        lm_head, tokens, bias, temperature, soft_cap, vocabulary: as for `token_logp`; masked slots of `tokens` may hold
            anything.
        kl: adds β · KL to a reference policy to the loss. Clipping and advantages do not affect it.
        entropy_bonus: β of −β · (mean entropy), averaged like the objective's tokens. A number or a [] tensor of either sign,
            held constant, that may change from step to step; with 0 entropies are measured and add nothing. None: no bonus.
        return_logp: also return the log-probs of every valid token (as the next updates' `old_logp`, or for metrics):
            the forward pass then includes sequences without an advantage.
        return_entropy: also return the entropy of every valid token's distribution, a constant without a bonus, from the same
            pass over the logits; the forward pass then includes sequences without an advantage.
        budget_bytes: memory for logits and float32 sums beyond the gradients. On a CPU, sequences whose logits fit into it use
            the aligned scheme with 3 matrix products; of longer ones a part of the logits is kept and the rest computed again,
            which takes up to 4 products. If 64 rows of logits do not fit, all sequences use the two-pass scheme, with 4
            products and one tile of logits. With an entropy bonus, `soft_cap`, `vocabulary` or a sharded layout, and on a GPU,
            whose kernels never write a logit to memory, every sequence uses the two-pass scheme; with 0 as well. Gradients in
            float16 or bfloat16 need their size in float32 of it, for the sums of the aligned scheme: V × H × 4 bytes for the
            head, 4 H a token.
        static: read nothing from the device, and torch.compile(fullgraph=True) takes the call as one graph. Then ids are not
            checked (one outside [0, V) has log-prob −∞), every slot costs a row of logits, also without an advantage or
            gradient, and the scheme is two-pass, whatever the budget.

    Gradients are summed in float32, multiplied by what arrives at `value` (a loss scale, 1/steps), and then rounded, once.
    Sequences without an advantage are left out of forward and backward, clipped sequences of backward: their gradients are 0.
    A KL term or an entropy bonus needs every token. On a GPU, torch.set_float32_matmul_precision("high") makes PyTorch round
    float32 parameters to TF32 in products, here as everywhere: the errors of log-probs are then larger than GSPO's clip range.
    bfloat16 and float16 parameters are not rounded further.

    Returns: `LinearLoss`. Only `value` is differentiable, once (a second derivative is refused with a RuntimeError).

    Raises: the errors of `policy_loss` and `token_logp`; TypeError for a `kl` of another type, and, unless `static`, inside
    of a graph that torch.compile traces; ValueError for a negative budget and for a bonus that is not finite.

    >>> import torch
    >>> from gspo_core import GSPO, Padded
    >>> hidden = torch.zeros(2, 3, 8, requires_grad=True)
    >>> tokens, mask = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[True, True, True], [True, False, False]])
    >>> old = torch.full((2, 3), -torch.tensor(5.0).log())
    >>> loss = linear_policy_loss(GSPO, hidden, torch.ones(5, 8), tokens, old, torch.tensor([1.0, -1.0]), Padded(mask))
    >>> round(loss.value.item(), 6), loss.logp_grad[0].tolist()
    (0.0, [-0.1666666716337204, -0.1666666716337204, -0.1666666716337204])
    """
    check_flag("static", static)
    if not static:
        _refuse_one_graph()
    check_flag("return_logp", return_logp)
    check_flag("return_entropy", return_entropy)
    check_term(kl)
    head = Head(lm_head, bias, temperature, soft_cap, vocabulary)
    hidden, head, tokens, layout = admit(hidden, head, tokens, layout)  # type: ignore[assignment]  # admit returns the type it was given
    check_head(hidden, head, tokens)
    check_slots(layout, tokens)
    budget_bytes, like = as_whole("budget_bytes", budget_bytes, 0), ("hidden", hidden)
    bonus = None if entropy_bonus is None else as_coefficient("entropy_bonus", admitted("entropy_bonus", entropy_bonus, like))
    old, divisor = (_constant(admitted(*item, like)) for item in (("old_logp", old_logp), ("denominator", denominator)))
    constant = _constant(admitted_advantage(advantage, like))
    terms = Terms(objective, old, constant, layout, divisor, on_policy, admitted_term(kl, like), bonus)
    if static:
        return static_loss(head, hidden, tokens, terms, return_logp=return_logp, return_entropy=return_entropy)
    with torch.no_grad():
        job = prepare(head, hidden, tokens, terms, budget_bytes, return_logp=return_logp, return_entropy=return_entropy)
    value, weighed, logp, entropy = LinearFunction.apply(hidden, head.weight, head.bias, job, torch.is_grad_enabled())
    return terms.result(value, weighed, logp if return_logp else None, entropy)


def _refuse_one_graph() -> None:
    """What the loss saves, it saves by looking at numbers, which a graph that is being traced does not have yet."""
    if torch.compiler.is_compiling():
        raise TypeError(
            "hidden: expected a tensor whose numbers can be read, got one that torch.compile is tracing; the loss looks at "
            "numbers to leave out work. For one graph pass static=True"
        )


def _constant(x: Any) -> Any:
    if isinstance(x, PerToken):
        return PerToken(_constant(x.values))
    return x.detach() if isinstance(x, Tensor) else x
