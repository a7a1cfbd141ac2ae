"""The contract of Tunix's repository in a few lines: what a loss returns there, and what its trainer makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from support.trainers.tunix_batches import Said, given_log_probs, said
from tunix.rl import function_registry
from tunix.sft import utils


class WeightedMetric(NamedTuple):
    """A sum and what it is to be divided by."""

    unreduced_sum: Any
    denominator: Any


class LossOutput(NamedTuple):
    """What a loss returns."""

    primary_loss: WeightedMetric
    aux_metrics: dict[str, Any]


class Step(NamedTuple):
    """An optimizer step over micro-batches."""

    loss: float
    gradients: list[Any]
    """Of the step's loss with respect to each micro-batch's log-probs."""
    logged: dict[str, float]


@contextmanager
def its_contract() -> Iterator[None]:
    """Tunix with the two classes."""
    with (
        mock.patch.object(utils, "LossOutput", LossOutput, create=True),
        mock.patch.object(utils, "WeightedMetric", WeightedMetric, create=True),
    ):
        yield


def step(name: str, parts: Sequence[tuple[Any, Any]], options: Any, log: bool = True) -> Step:
    """Gradients of sums are added up, as are denominators, and divided once; so is what is logged, or its mean is taken."""
    graded = _compiled(function_registry.get_policy_loss_fn(name), said(options), log)
    outputs, gradients = [], []
    with its_contract(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for logp, example in parts:
            (_, output), gradient = graded(jnp.asarray(logp), example)
            outputs.append(output)
            gradients.append(np.asarray(gradient))
    whole = sum(float(output.primary_loss.denominator) for output in outputs)
    logged = {key: _mean([output.aux_metrics[key] for output in outputs]) for key in outputs[0].aux_metrics}
    return Step(_mean([output.primary_loss for output in outputs]), [x / whole for x in gradients], logged)


def _mean(values: list[Any]) -> float:
    if isinstance(values[0], WeightedMetric):
        total, count = (sum(float(x[k]) for x in values) for k in (0, 1))
        return total / count if count else 0.0
    return float(np.mean([np.asarray(x) if isinstance(x, jax.Array) else x for x in values]))


@cache
def _compiled(loss: Any, words: Said, log: bool) -> Any:
    def of(given: Any, example: Any) -> Any:
        with given_log_probs(given, jnp.zeros(given.shape)):
            output = loss(None, example, algo_config=words.options, pad_id=0, eos_id=1, compute_logps_chunk_size=0)
        return output.primary_loss.unreduced_sum, output if log else output._replace(aux_metrics={})

    return jax.jit(jax.value_and_grad(of, has_aux=True))
