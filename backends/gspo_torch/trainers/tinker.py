"""tinker: any objective as a custom loss, or as the weights of its cross-entropy.

    loss_fn = custom_loss(GSPO)
    training_client.forward_backward_custom(data, loss_fn)      # two passes on the server; metrics come back

    weights = token_weights(GSPO, data, logprobs)               # one pass, if the log-probs of the current policy are known
    training_client.forward_backward(data with these "weights", "cross_entropy")

Data are those of tinker's recipes for reinforcement learning: `target_tokens`, `logprobs` of the sampler, `advantages`, and a
`mask` where not every token is the policy's. The server's loss is −Σ weight · logprob, so that a weight is −∂loss/∂logp. Calls
add up: the denominator is the count of the data of one call, or, with several calls per optimizer step, the number given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gspo_core import Loss, Objective, Packed, batch_metrics, summary
from gspo_torch import policy_loss

from .responses import advantage_for, check_objective


def custom_loss(objective: Objective, denominator: float | None = None) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """A function for `forward_backward_custom`.

    Args:
        objective: whose loss it is.
        denominator: the count of all responses (or tokens) of the optimizer step; None: of the data of this call.

    Returns: a function of (data, list of log-probs) that returns (loss, metrics), and can be pickled. It raises the errors of
    `token_weights`.

    Raises: TypeError for what is no objective.
    """
    check_objective(objective)
    return partial(_custom, objective, denominator)


def _custom(
    objective: Objective, denominator: float | None, data: Sequence[Any], logprobs: Sequence[Tensor]
) -> tuple[Tensor, dict[str, float]]:
    loss, rest = _loss(objective, data, logprobs, denominator)
    numbers = summary(batch_metrics(objective, loss, *rest))
    return loss.value, {f"gspo/{name}": value for name, value in numbers.items()}


def token_weights(
    objective: Objective, data: Sequence[Any], logprobs: Sequence[Tensor], denominator: float | None = None
) -> list[Tensor]:
    """Weights for the server's "cross_entropy".

    Args:
        objective, denominator: as of `custom_loss`.
        data: tinker's Datum, with `logprobs` and `advantages`.
        logprobs: of the same tokens, under the current policy; of a forward pass, or those of `data` in the first update.

    Returns: −∂loss/∂logp of each datum's tokens.

    Raises: ValueError for log-probs of another number or length than the data's, for data without one of the two, for a mask of
    other numbers than 0 and 1, and for a prompt that no mask leaves out; TypeError for what is no tensor or no objective.
    """
    check_objective(objective)
    _check(data, logprobs)
    loss, _ = _loss(objective, data, [x.detach() for x in logprobs], denominator)
    return list((-loss.logp_grad).split([len(x) for x in logprobs]))


def _loss(
    objective: Objective, data: Sequence[Any], logprobs: Sequence[Tensor], denominator: float | None
) -> tuple[Loss, tuple[Any, ...]]:
    """The loss, and the arguments of its metrics. Every datum is a segment of one row."""

    _check(data, logprobs)

    def field(name: str) -> Tensor:
        parts = [_numbers(name, at, datum, logp) for at, (datum, logp) in enumerate(zip(data, logprobs, strict=True))]
        return torch.cat(parts).to(logprobs[0].device)

    lengths = torch.tensor([len(x) for x in logprobs])
    own = torch.arange(len(logprobs)).repeat_interleave(lengths)
    own = torch.where(field("mask") > 0, own.to(logprobs[0].device), -1)
    layout, logp, old, tokens = Packed(own, len(logprobs)), torch.cat(list(logprobs)), field("logprobs"), field("advantages")
    _check_prompts(data, old.split(lengths.tolist()), tokens.split(lengths.tolist()))
    advantage = advantage_for(objective, tokens, layout)
    loss = policy_loss(objective, logp, old, advantage, layout, denominator=denominator)
    return loss, (logp.detach(), old, advantage, layout)


def _check(data: Sequence[Any], logprobs: Sequence[Tensor]) -> None:
    """One tensor of log-probs for each datum."""
    if len(data) != len(logprobs) or not len(data):
        raise ValueError(
            f"logprobs: expected a tensor for each of the data, and some data, got {len(logprobs)} for {len(data)}"
        )
    for at, x in enumerate(logprobs):
        if not isinstance(x, Tensor) or x.ndim != 1:
            got = f"shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"logprobs: expected torch tensors of shape [T], such as to_torch() of the server's, got {got} at {at}"
            )


def _numbers(name: str, at: int, datum: Any, logp: Tensor) -> Tensor:
    """[T] one of a datum's inputs. A datum without a mask holds the policy's tokens alone."""
    inputs = datum.loss_fn_inputs
    if name not in inputs and name != "mask":
        raise ValueError(f"{name}: expected them among the inputs of datum {at}, got {', '.join(inputs) or 'none'}")
    found: Tensor = inputs[name].to_torch() if name in inputs else torch.ones_like(logp)
    if found.shape != logp.shape:
        raise ValueError(f"{name}: expected {len(logp)} numbers at datum {at}, as logprobs has there, got {list(found.shape)}")
    if name == "mask" and bool(((found != 0) & (found != 1)).any()):
        raise ValueError(
            f"mask: expected zeros and ones at datum {at}, got {found.tolist()}; a weight multiplies the advantage"
        )
    return found


def _check_prompts(data: Sequence[Any], old: Sequence[Tensor], advantages: Sequence[Tensor]) -> None:
    """Prompts have zeros in tinker's recipes. Its sums do not see them, but lengths and means of a loss do."""
    for at, (datum, logp, advantage) in enumerate(zip(data, old, advantages, strict=True)):
        prompt = (logp == 0) & (advantage == 0)
        if "mask" not in datum.loss_fn_inputs and bool(prompt.any()) and bool((advantage != 0).any()):
            raise ValueError(
                f"mask: expected one at datum {at}, where {int(prompt.sum())} of {len(logp)} tokens have advantage and "
                "log-prob 0, as a prompt has; 1 for the tokens of the policy, 0 for others"
            )
