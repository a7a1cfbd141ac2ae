"""The JAX trainer: sampling and log-probs are those of transformers' forward pass; checkpoints; options."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from support.runs.answers import assert_stops
from support.runs.jax_trainers import draw, log_probs, make_trainer

from integration.on_jax import learner as learner_jax
from integration.on_jax import rollout as rollout_jax
from integration.on_jax.rollout import Responses, bucket, random_keys, resized
from integration.on_jax.trainer import Trainer
from integration.shared.evaluation import evaluate
from integration.tasks.task import Task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def sequence(batch: Responses, row: int) -> tuple[Any, Any]:
    """(prompt, response) of a row without padding, for torch."""
    prompt, tokens = batch.prompt_ids[row][batch.prompt_mask[row]], batch.tokens[row][batch.mask[row]]
    return torch.tensor(prompt, dtype=torch.long), torch.tensor(tokens, dtype=torch.long)


def their_logits(model: Any, batch: Responses, row: int) -> Any:
    """[|y|, V] of transformers, at the positions that predict the response."""
    prompt, tokens = sequence(batch, row)
    with torch.no_grad():
        return model(input_ids=torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1].double()


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_log_probs_are_those_of_transformers(task: Task, saved: Any, tmp_path: Path, temperature: float) -> None:
    trainer = make_trainer(task, saved, tmp_path, temperature=temperature)
    batch = draw(trainer, 16)
    lengths = batch.mask.sum(-1)
    assert lengths.min() < lengths.max(), "all responses have one length: padding is not tested"
    assert len(np.unique(batch.prompt_mask.sum(-1))) > 1, "all prompts have one length"
    order = np.array([63, *np.argsort(lengths)[:3], 0])
    part = batch.rows(order)
    assert part.mask.shape == (8, 8)
    logp = log_probs(trainer, part)
    for place, row in enumerate(order):
        logits = their_logits(saved[0], batch, row) / temperature
        expected = torch.log_softmax(logits, -1).gather(-1, sequence(batch, row)[1][:, None])[:, 0].numpy()
        np.testing.assert_allclose(logp[place][part.mask[place]], expected, atol=1e-5, rtol=0)
    assert (logp[~part.mask] == 0).all()
    assert not part.mask[len(order) :].any()


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_the_sampler_writes_down_the_log_probs_of_what_it_draws(
    task: Task, saved: Any, tmp_path: Path, temperature: float
) -> None:
    trainer = make_trainer(task, saved, tmp_path, temperature=temperature)
    batch = draw(trainer, 16)
    assert batch.logp is not None
    np.testing.assert_allclose(batch.logp[batch.mask], log_probs(trainer, batch)[batch.mask], atol=1e-5, rtol=0)
    part = batch.rows(np.array([5, 3]))
    assert part.logp is not None
    assert (part.logp[0][part.mask[0]] == batch.logp[5][batch.mask[5]]).all()
    stops = set(trainer.sampler.prompter.stop_ids())
    last = [sequence(batch, row)[1].tolist()[-1] for row in range(64)]
    assert trainer.sampler.ended(batch) == sum(token in stops for token in last) / 64
    assert 0 < trainer.sampler.ended(batch) < 1


def test_a_response_ends_with_its_stop_token_and_holds_no_other(trainer: Trainer) -> None:
    batch = draw(trainer, 16)
    assert_stops(
        zip(batch.tokens, batch.mask, strict=True), set(trainer.sampler.prompter.stop_ids()), trainer.config.max_new_tokens
    )


def test_greedy_sampling_is_the_argmax_of_transformers(trainer: Trainer, saved: Any) -> None:
    batch = trainer.sampler.draw(trainer.task.train[:4], 1, None)
    assert len(batch.tokens) == 4
    for row in range(4):
        assert their_logits(saved[0], batch, row).argmax(-1).tolist() == sequence(batch, row)[1].tolist()


def test_sampled_tokens_follow_the_models_distribution(task: Task, saved: Any, tmp_path: Path) -> None:
    trainer = make_trainer(task, saved, tmp_path, temperature=0.8, max_new_tokens=1)
    count = 4000
    batch = trainer.sampler.draw(task.train[:1], count, random_keys(0, 0))
    expected = torch.softmax(their_logits(saved[0], batch, 0)[0] / 0.8, -1).numpy()
    seen = np.bincount(batch.tokens[:, 0], minlength=len(expected)) / count
    # five standard errors of the most uncertain frequency
    assert np.abs(seen - expected).max() < 5 * (0.25 / count) ** 0.5
    assert 0.05 < seen.max() < 0.9, "the distribution is a point, or flat: nothing is tested"


def test_random_keys_are_a_function_of_seed_and_step(trainer: Trainer) -> None:
    assert (draw(trainer, seed=3).tokens == draw(trainer, seed=3).tokens).all()
    keys = [k for seed, step in ((0, 0), (0, 1), (1, 0)) for k in itertools.islice(random_keys(seed, step), 3)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 9
    first = evaluate(trainer.task, trainer.sampler, samples=2, seed=5)
    draw(trainer)
    assert first == evaluate(trainer.task, trainer.sampler, samples=2, seed=5)
    assert len(first.sampled) == len(first.greedy) == 10


def test_shapes_come_in_buckets_and_compile_once_each(trainer: Trainer) -> None:
    batch, random = draw(trainer), np.random.default_rng(0)
    shapes = set()
    before = learner_jax._hidden_states._cache_size()
    for size in random.integers(1, 17, 20):
        part = batch.rows(random.permutation(16)[:size])
        shapes.add((part.prompt_mask.shape, part.mask.shape))
        trainer.learner.hidden_states(part)
    assert len(shapes) == 2, "8 and 16 rows; prompts and responses fit one bucket each"
    assert learner_jax._hidden_states._cache_size() - before <= len(shapes)
    compiled = rollout_jax.generate._cache_size()
    for prompts in (1, 3, 8):
        trainer.sampler.draw(trainer.task.train[:prompts], 4, random_keys(0, prompts))
    assert rollout_jax.generate._cache_size() - compiled <= 1
    assert [bucket(n) for n in (1, 8, 9, 32, 33)] == [8, 8, 16, 32, 64]
    assert resized(np.array([[1, 2, 3]]), (2, -2)).tolist() == [[2, 3], [0, 0]]
    assert resized(np.array([1]), (-3,)).tolist() == [0, 0, 1]
