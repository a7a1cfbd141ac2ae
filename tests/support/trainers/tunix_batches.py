"""Batches as Tunix's TrainExample, padded and packed, and Tunix's loss functions on given log-probs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from gspo_jax.trainers.tunix import register  # the import registers the presets
from tunix.rl import algo_core, common, function_registry, utils
from tunix.rl.grpo.grpo_learner import GRPOConfig

from gspo_core import Objective

LENGTHS = (6, 3, 1, 0)


class Rows(NamedTuple):
    """Responses, padded on the right; NumPy, float32."""

    logp: Any
    old: Any
    reference: Any
    advantage: Any
    mask: Any


def rows(seed: int, lengths: tuple[int, ...] = LENGTHS, spread: float = 0.3) -> Rows:
    """Random log-probs of responses of the given lengths; masked slots hold numbers that must not matter."""
    rng, width = np.random.default_rng(seed), max(lengths)
    mask = np.arange(width) < np.array(lengths)[:, None]
    old = np.where(mask, -rng.gamma(2.0, 0.5, mask.shape), 7.0)
    logp, reference = (np.where(mask, old + spread * rng.normal(size=mask.shape), 9.0) for _ in range(2))
    advantage = rng.normal(size=len(lengths))
    return Rows(*(x.astype(np.float32) for x in (logp, old, reference, advantage)), mask)


def config(temperature: float = 1.0, kind: Any = GRPOConfig, **options: Any) -> Any:
    """A configuration as a learner leaves it: with the rollout's temperature."""
    found = kind(**options)
    found.temperature = temperature
    return found


def saying_nothing(**options: Any) -> Any:
    """A configuration that leaves everything to the objective."""
    return config(**{"epsilon": None, "loss_agg_mode": None, "beta": 0.0, **options})


def padded(batch: Rows, **more: Any) -> common.TrainExample:
    """A micro-batch of a learner that does not pack."""
    given = {
        "old_per_token_logps": jnp.asarray(batch.old),
        "ref_per_token_logps": None,
        "advantages": jnp.asarray(batch.advantage),
    }
    ids = jnp.zeros(batch.mask.shape, dtype="int32")
    return common.TrainExample(
        prompt_ids=None, prompt_mask=None, completion_ids=ids, completion_mask=jnp.asarray(batch.mask), **{**given, **more}
    )


class Pack(NamedTuple):
    """A packed micro-batch, and where in it the tokens of the padded one are."""

    logp: Any
    example: common.TrainExample
    mask: Any


def packed(batch: Rows, packs: tuple[tuple[int, ...], ...], width: int, reference: bool = False) -> Pack:
    """By Tunix's `pack_sequences`: one pack of `width` slots for the responses of each tuple, a prompt token before each."""
    made = []
    for chosen in packs:
        part = Rows(*(x[list(chosen)] for x in batch))
        # Log-probs of the current policy travel in the place of another array of tokens.
        for name in ("old", "logp"):
            whole = common.TrainExample(
                prompt_ids=np.ones((len(chosen), 1), dtype=np.int32),
                prompt_mask=np.ones((len(chosen), 1), dtype=np.int32),
                completion_ids=np.ones(part.mask.shape, dtype=np.int32),
                completion_mask=part.mask.astype(np.int32),
                advantages=part.advantage,
                ref_per_token_logps=part.reference if reference else None,
                old_per_token_logps=getattr(part, name),
            )
            ((example,),) = utils.pack_sequences(iter([[whole]]), width)
            made.append(example)
    old, new = (jax.tree.map(lambda *x: jnp.concatenate(x), *made[k::2]) for k in (0, 1))
    return Pack(new.old_per_token_logps, old, np.asarray(old.completion_mask) > 0)


@cache
def registered(objective: Objective) -> str:
    """Its name in Tunix's registry."""
    return register(repr(objective), objective)


def value_and_grad(name: str, logp: Any, example: Any, options: Any, log: bool = False) -> tuple[float, dict[str, Any], Any]:
    """(loss, aux if asked for, gradient with respect to the log-probs) of a registered loss, which stand in a model's place."""
    graded = _compiled(function_registry.get_policy_loss_fn(name), said(options), log)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # Tunix relies on both
        (value, aux), gradient = graded(jnp.asarray(logp), example)
    return float(value), aux, np.asarray(gradient)


class Said(NamedTuple):
    """A configuration, which has no hash, and what it says, which stands for it."""

    words: str
    options: Any

    def __hash__(self) -> int:
        return hash(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Said) and other.words == self.words


def said(options: Any) -> Said:
    """Some of its fields are slots, and `temperature` is no field."""
    return Said(repr(sorted({**dataclasses.asdict(options), **vars(options)}.items())), options)


@contextmanager
def given_log_probs(logp: Any, more: Any) -> Iterator[None]:
    """The model is split and run by two functions of these modules; everything else is as in a training."""
    split = mock.patch.object(algo_core.nnx, "split", return_value=(None, None))
    with split, mock.patch.object(common, "compute_per_token_logps", return_value=(logp, more)):
        yield


@cache
def _compiled(loss: Any, words: Said, log: bool) -> Any:
    """As a training compiles it, once for all batches of one shape; what is not asked for is not computed."""

    def of(given: Any, example: Any) -> Any:
        with given_log_probs(given, jnp.zeros((*given.shape, 2))):
            value, aux = loss(None, example, algo_config=words.options, pad_id=0, eos_id=1)
        return value, aux if log else {}

    return jax.jit(jax.value_and_grad(of, has_aux=True))
