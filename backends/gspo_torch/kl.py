"""The closed-form weight of the core's KL penalty, attached to PyTorch's autograd by the rule of `policy`."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from gspo_core import kl_penalty as core_kl_penalty
from gspo_core.backend import kl_weight_as_function
from gspo_core.kl import KLEstimator, KLPenalty
from gspo_core.layouts import Layout
from gspo_core.types import Reduction

from .apart import applied, tensors_of, with_tensors
from .door import admitted, admitted_layout


def kl_penalty(
    estimator: KLEstimator,
    logp: Tensor,
    ref_logp: Tensor,
    layout: Layout,
    *,
    reduction: Reduction,
    old_logp: Tensor | None = None,
    denominator: float | Tensor | None = None,
    allow_low_precision: bool = False,
) -> KLPenalty:
    """`gspo_core.kl_penalty`, with a `value` that is differentiable with respect to `logp`.

    Formula, arguments, shapes and errors are those of the core. Gradients flow to `logp` only, whatever graph the other
    log-probs come with: on policy pass `old_logp=logp`. The derivative of `value` is `logp_grad`, at any size of the log
    ratios; double backward, torch.func and torch.compile(fullgraph=True) are exact.

    >>> import torch
    >>> from gspo_core import Padded, SequenceMean, TokenKL
    >>> logp = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    >>> layout, ref = Padded(torch.tensor([[True, True]])), torch.tensor([[-1.5, -2.5]])
    >>> kl_penalty(TokenKL(), logp, ref, layout, reduction=SequenceMean(), old_logp=logp).value.backward()
    >>> logp.grad.tolist()
    [[0.25, 0.25]]
    """
    if not isinstance(logp, Tensor) and hasattr(logp, "dtype"):  # the core would take it; what is no array it refuses itself
        raise TypeError(f"logp: expected a torch tensor, got {type(logp).__module__}.{type(logp).__name__}")
    logp = admitted("logp", logp)
    like, named = ("logp", logp), {"ref_logp": ref_logp, "old_logp": old_logp, "denominator": denominator}
    constants = [x.detach() if isinstance(x, Tensor) else x for x in (admitted(*item, like) for item in named.items())]
    layout = admitted_layout(layout, like)
    options = (estimator, layout, reduction, allow_low_precision)
    return KLPenalty(*applied(_KLPenalty, logp, *constants, options, *tensors_of(layout)))


class _KLPenalty(torch.autograd.Function):
    """The core's `kl_penalty`, whose value carries the closed-form gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        logp: Tensor,
        ref_logp: Tensor,
        old_logp: Tensor | None,
        denominator: float | Tensor | None,
        options: tuple[KLEstimator, Layout, Reduction, bool],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """The fields of the core's KLPenalty that are there, the value first."""
        estimator, layout, reduction, low = options
        found = core_kl_penalty(
            estimator,
            logp,
            ref_logp,
            with_tensors(layout, list(tensors)),
            reduction=reduction,
            old_logp=old_logp,
            denominator=denominator,
            allow_low_precision=low,
        )
        return tuple(x for x in found if x is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the inputs, for a second derivative, and the closed-form weight ∂value/∂logp."""
        logp, ref_logp, old_logp, denominator, ctx.options, *tensors = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        held = isinstance(denominator, Tensor)
        ctx.number = None if held else denominator
        ctx.save_for_backward(logp, ref_logp, old_logp, denominator if held else None, output[1], *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """upstream · ∂value/∂logp for `logp`; every other input is a constant."""
        upstream = grads[0]
        nothing = (None,) * (len(ctx.needs_input_grad) - 1)
        if upstream is None:
            return None, *nothing
        logp, ref_logp, old_logp, denominator, weight, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            estimator, layout, reduction, _ = ctx.options
            weight = kl_weight_as_function(
                estimator,
                logp,
                ref_logp,
                with_tensors(layout, tensors),
                reduction=reduction,
                old_logp=old_logp,
                denominator=ctx.number if denominator is None else denominator,
            )
        return (upstream * weight).to(logp.dtype), *nothing


# torch asks for the signature at every call; finding it out takes as long as ten small operations.
_KLPenalty.forward.__signature__ = inspect.signature(_KLPenalty.forward)  # type: ignore[attr-defined]  # functions accept attributes
