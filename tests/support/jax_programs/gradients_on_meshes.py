"""Gradients of one micro-batch on meshes, in float64: rows of all lengths, a KL penalty, a mixture of experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jax_programs.on_meshes import EXACT, trainer_on
from support.runs.model_folders import saved

from gspo_core.kl import K3, KLTerm
from integration.on_jax.rollout import Responses
from integration.on_jax.trainer import Trainer
from integration.on_jax.training import loss_of
from integration.on_jax.weights import named_weights
from integration.parity import on_jax as parity

ROWS, PROMPT, TOKENS, VOCABULARY = 8, 8, 8, 40
LENGTHS = st.lists(st.integers(0, TOKENS), min_size=ROWS, max_size=ROWS)
MIXTURE: dict[str, Any] = {
    "model_type": "qwen3_moe", "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 12, "mlp_only_layers": [1], "attention_bias": True, "tie_word_embeddings": False,
}  # fmt: skip


class Found(NamedTuple):
    """Of a micro-batch."""

    value: float
    clipped: list[bool]
    gradients: dict[str, Any]


def batch(lengths: list[int], seed: int) -> tuple[Responses, Any, Any, Any]:
    """(responses of these lengths, advantages, drift of the old log-probs, reference log-probs): rows of length 0 fill up."""
    rng, slots = np.random.default_rng(seed), np.arange(TOKENS)
    mask = slots[None, :] < np.array(lengths)[:, None]
    prompt = slots[None, :] >= rng.integers(0, PROMPT - 1, (ROWS, 1))
    ids, tokens = rng.integers(0, VOCABULARY, (2, ROWS, TOKENS)).astype(np.int32)
    responses = Responses(ids, prompt & mask.any(1, keepdims=True), tokens, mask)
    drift = 0.02 * rng.normal(size=(ROWS, 1)) + 0.01 * rng.normal(size=mask.shape)
    return responses, rng.normal(size=ROWS) * mask.any(1), drift, -4.0 + rng.normal(size=mask.shape)


def found(trainer: Trainer, lengths: list[int], seed: int, old: Any, *, kl: bool) -> Found:
    """On the trainer's mesh."""
    part, advantage, _, ref_logp = batch(lengths, seed)
    count = np.asarray(max(1, sum(n > 0 for n in lengths)))
    states, pull_back = trainer.learner.hidden_states(part)
    term = KLTerm(K3(), ref_logp, 0.1) if kl else None
    gradient, loss = loss_of(trainer, part, states, old, advantage, count, term)
    whole = trainer.learner.add(trainer.learner.zeros(), pull_back, gradient)
    return Found(float(loss.value), np.asarray(loss.clipped).tolist(), named_weights(whole))


def old_of(trainer: Trainer, lengths: list[int], seed: int) -> Any:
    """Old log-probs a little off the policy's own, so that some responses are clipped."""
    part, advantage, drift, _ = batch(lengths, seed)
    states, _ = trainer.learner.hidden_states(part)
    zeros = np.zeros(part.mask.shape)
    loss = loss_of(trainer, part, states, zeros, advantage, np.asarray(1), KLTerm(K3(), zeros, 0.1))[1]
    assert loss.logp is not None
    return np.asarray(loss.logp) + drift


def agree(ours: Found, truth: Found) -> bool:
    """To 1e-12 of the largest gradient, and in every clip decision."""
    largest = max(float(np.abs(x).max()) for x in truth.gradients.values())
    far = max(float(np.abs(ours.gradients[name] - x).max()) for name, x in truth.gradients.items())
    near = far <= EXACT * max(largest, 1e-3) and abs(ours.value - truth.value) <= EXACT
    return near and ours.clipped == truth.clipped


def claims(folder: Path) -> Iterator[tuple[str, bool]]:
    """Name and whether it holds."""
    with jax.enable_x64(True):
        yield from rows_are_uneven(folder)
        yield from a_mixture(folder)


def rows_are_uneven(folder: Path) -> Iterator[tuple[str, bool]]:
    """Lengths are drawn: some devices have no token at all."""
    one, mesh = (trainer_on(m, folder / "rows") for m in ((1, 1), (4, 2)))
    for trainer in (one, mesh):
        parity.widen(trainer)
    seen: set[bool] = set()

    @given(lengths=LENGTHS, seed=st.integers(0, 99))
    @settings(max_examples=15, derandomize=True, deadline=None, database=None)
    def holds(lengths: list[int], seed: int) -> None:
        old = old_of(one, lengths, seed)
        truth, ours = (found(trainer, lengths, seed, old, kl=True) for trainer in (one, mesh))
        assert agree(ours, truth)
        seen.update(truth.clipped)

    holds()
    for lengths in ([5, 3] + [0] * 6, [0] * 8, [8] * 8):
        old = old_of(one, lengths, 0)
        assert agree(*(found(trainer, lengths, 0, old, kl=True) for trainer in (mesh, one)))
    yield "rows of any lengths, with a KL penalty", True
    yield "rows are not vacuous", seen == {True, False}


def a_mixture(folder: Path) -> Iterator[tuple[str, bool]]:
    """Two experts to a device, a head of its own whose vocabulary is cut, biases."""
    saved(folder / "mixture", **MIXTURE)
    one, mesh = (trainer_on(m, folder / "experts", folder / "mixture") for m in ((1, 1), (2, 2)))
    for trainer in (one, mesh):
        parity.widen(trainer)
    lengths = [5, 3, 0, 8, 1, 2, 7, 4]
    truth, ours = (found(trainer, lengths, 0, np.full((ROWS, TOKENS), -3.7), kl=False) for trainer in (one, mesh))
    held = {x.addressable_shards[0].data.size / x.size for x in jax.tree.leaves(mesh.learner.params) if x.ndim > 1}
    yield "a mixture of experts", agree(ours, truth)
    yield "a mixture's matrices are halved, its router is not", held == {0.5, 1.0}
