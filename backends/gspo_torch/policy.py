"""The core's closed-form weight, attached to PyTorch's autograd.

The rule is an autograd function whose backward is the weight itself. When backward is itself differentiated
(create_graph, torch.func), the weight is computed again from the inputs, so that second derivatives are those of the
paper's formulas, stop-gradients included. A saved weight alone would make them silently wrong. There is no forward-mode
rule (torch.compile refuses functions that have one): for a Hessian use jacrev(jacrev(f)), not torch.func.hessian.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gspo_core import Loss, Objective, PerToken
from gspo_core import policy_loss as core_policy_loss
from gspo_core.backend import weight_as_function
from gspo_core.layouts import Layout

from .apart import applied, tensors_of, with_tensors
from .door import admitted, admitted_advantage, admitted_layout


def policy_loss(
    objective: Objective,
    logp: Tensor,
    old_logp: Tensor | None,
    advantage: Tensor | PerToken,
    layout: Layout,
    *,
    denominator: float | Tensor | None = None,
    on_policy: bool = False,
    allow_low_precision: bool = False,
) -> Loss:
    """`gspo_core.policy_loss`, with a `value` that is differentiable with respect to `logp`.

    Formula, arguments, shapes and errors are those of the core. Gradients flow to `logp` only: old log-probs, advantages
    and denominators are constants of the loss. Double backward, torch.func and torch.compile(fullgraph=True) are exact.

    >>> import torch
    >>> from gspo_core import GSPO, Padded
    >>> logp = torch.tensor([[-1.0, -2.0], [-1.0, -3.0]], requires_grad=True)
    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> policy_loss(GSPO, logp, logp.detach(), torch.tensor([1.0, -1.0]), Padded(mask)).value.backward()
    >>> logp.grad.tolist()
    [[-0.25, -0.25], [0.5, 0.0]]
    """
    if not isinstance(logp, Tensor) and hasattr(logp, "dtype"):  # the core would take it; what is no array it refuses itself
        raise TypeError(f"logp: expected a torch tensor, got {type(logp).__module__}.{type(logp).__name__}")
    logp = admitted("logp", logp)
    like = ("logp", logp)
    named = {"old_logp": old_logp, "denominator": denominator}
    constants = [x.detach() if isinstance(x, Tensor) else x for x in (admitted(*item, like) for item in named.items())]
    batch, tensors = _take_apart(admitted_advantage(advantage, like), admitted_layout(layout, like))
    options = (objective, batch, on_policy, allow_low_precision)
    value, logp_grad, log_ratio, clipped, divisor = applied(_PolicyLoss, logp, *constants, options, *tensors)
    return Loss(value, logp_grad, log_ratio, clipped, divisor, on_policy)


class _Batch(NamedTuple):
    """Advantage and layout with their tensors taken out: autograd, vmap and compile must see every tensor by itself."""

    advantage: Any
    layout: Any

    def rebuild(self, tensors: Sequence[Tensor]) -> tuple[Any, Any]:
        """(advantage, layout) with the tensors put back."""
        values, *of_layout = tensors
        advantage = PerToken(values) if isinstance(self.advantage, PerToken) else values
        return advantage, with_tensors(self.layout, of_layout)


def _take_apart(advantage: Tensor | PerToken, layout: Layout) -> tuple[_Batch, list[Any]]:
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    template = PerToken(None) if isinstance(advantage, PerToken) else None
    constant = values.detach() if isinstance(values, Tensor) else values
    return _Batch(template, layout), [constant, *tensors_of(layout)]


class _PolicyLoss(torch.autograd.Function):
    """The core's `policy_loss`, whose value carries the closed-form gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        logp: Tensor,
        old_logp: Tensor | None,
        denominator: float | Tensor | None,
        options: tuple[Objective, _Batch, bool, bool],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """The fields of the core's Loss, the value first."""
        objective, batch, on_policy, low = options
        advantage, layout = batch.rebuild(tensors)
        loss = core_policy_loss(
            objective,
            logp,
            old_logp,
            advantage,
            layout,
            denominator=denominator,
            on_policy=on_policy,
            allow_low_precision=low,
        )
        return loss.value, loss.logp_grad, loss.log_ratio, loss.clipped, loss.denominator

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the inputs, for a second derivative, and the closed-form weight ∂loss/∂logp."""
        logp, old_logp, _, (objective, batch, *_), *tensors = inputs
        _, logp_grad, log_ratio, clipped, divisor = output
        ctx.mark_non_differentiable(logp_grad, log_ratio, clipped, divisor)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logp, old_logp, divisor, logp_grad, *tensors)
        ctx.objective, ctx.batch = objective, batch

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """upstream · ∂loss/∂logp for `logp`; every other input is a constant."""
        upstream = grads[0]
        nothing = (None,) * (len(ctx.needs_input_grad) - 1)
        if upstream is None:
            return None, *nothing
        logp, old_logp, divisor, weight, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            constants = {"weight": weight, "denominator": divisor, "hold_constant": Tensor.detach}
            weight = weight_as_function(ctx.objective, logp, old_logp, *ctx.batch.rebuild(tensors), **constants)
        return (upstream * weight).to(logp.dtype), *nothing


# torch asks for the signature at every call; finding it out takes as long as ten small operations.
_PolicyLoss.forward.__signature__ = inspect.signature(_PolicyLoss.forward)  # type: ignore[attr-defined]  # functions accept attributes
