"""One training step in JAX: gradients add up, and updates are torch's AdamW."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.runs.in_process import Paid
from support.runs.jax_trainers import draw, log_probs, make_trainer

from gspo_core.planning import Plan
from integration.on_jax import rollout as rollout_jax
from integration.on_jax.learner import Learner
from integration.on_jax.loss import differentiate
from integration.on_jax.rollout import Responses, resized
from integration.on_jax.trainer import Trainer
from integration.on_jax.training import Old, mini_batch, old_pass, one_rollout, update
from integration.on_jax.weights import load_decoder, named_weights
from integration.options.errors import TrainingFailure
from integration.shared.measure import Rollup
from integration.tasks.task import Task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def gradients(trainer: Trainer, responses: Responses, advantages: Any, old: Any) -> dict[str, Any]:
    """Gradients of one update, instead of its step."""
    found: list[Any] = []
    trainer.learner.step = found.append  # type: ignore[method-assign]  # a spy
    batch = mini_batch(trainer, responses, advantages, Plan(advantages), np.arange(len(advantages)))
    live = np.arange(len(advantages))[advantages != 0]
    size = trainer.config.micro_batch_size or len(advantages)
    pieces = [live[i : i + size] for i in range(0, len(live), size)]
    olds = [Old(resized(old[p], part.mask.shape), None) for p, (part, _) in zip(pieces, batch.parts, strict=True)]
    update(trainer, batch, olds, Rollup(trainer.objective))
    return named_weights(found[0])


@pytest.mark.parametrize("objective", ["gspo", "grpo"])
def test_micro_batches_and_left_out_responses_change_nothing(task: Task, saved: Any, tmp_path: Path, objective: str) -> None:
    advantages = np.random.default_rng(1).normal(size=16).astype(np.float32)
    advantages[::5] = 0
    results = []
    for micro_batch_size in (None, 3):
        trainer = make_trainer(task, saved, tmp_path, objective=objective, micro_batch_size=micro_batch_size)
        responses = draw(trainer)
        old = log_probs(trainer, responses)
        old = old + 0.02 * np.random.default_rng(2).normal(size=old.shape).astype(np.float32)
        results.append(gradients(trainer, responses, advantages, old))
    whole, parts = results
    largest = max(float(np.abs(g).max()) for g in whole.values())
    assert largest > 1e-3
    for name, gradient in whole.items():
        # float32 sums over at most 16 responses of 6 tokens, in another order
        np.testing.assert_allclose(parts[name], gradient, atol=1e-5 * largest, rtol=0, err_msg=name)


def test_a_mini_batch_without_any_advantage_has_zero_gradients(trainer: Trainer) -> None:
    responses = draw(trainer)
    found = gradients(trainer, responses, np.zeros(16, dtype=np.float32), np.zeros(responses.mask.shape))
    assert found
    assert all((gradient == 0).all() for gradient in found.values())


def test_steps_are_those_of_torch_adamw_with_warm_up_and_clipping(saved: Any) -> None:
    learner = Learner(load_decoder(saved[2]), lr=1e-2, lr_warm_up=3, max_grad_norm=0.5)
    names = list(named_weights(learner.params))
    start = {name: weight.copy() for name, weight in named_weights(learner.params).items()}
    theirs = {name: torch.nn.Parameter(torch.tensor(start[name])) for name in names}
    optimizer = torch.optim.AdamW(theirs.values(), lr=1e-2, weight_decay=0.0)
    random = np.random.default_rng(0)
    for step in range(1, 6):
        # alternately far above the norm that is allowed, and below it
        scale = 1.0 if step % 2 else 1e-4
        ours = jax.tree.map(lambda x: jnp.asarray(scale * random.normal(size=x.shape), dtype=jnp.float32), learner.params)  # noqa: B023 (called within the loop)
        for name, gradient in named_weights(ours).items():
            theirs[name].grad = torch.tensor(gradient)
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        assert (float(norm) > 0.5) == (step % 2 == 1)
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, step / 3)
        optimizer.step()
        learner.step(ours)
    for name, weight in named_weights(learner.params).items():
        expected = theirs[name].detach().numpy()
        assert np.abs(expected - start[name]).max() > 1e-2
        # steps of about 1e-2, the moments rounded to float32
        np.testing.assert_allclose(weight, expected, atol=1e-6, rtol=1e-6, err_msg=name)


def test_non_finite_gradients_are_skipped_counted_and_end_the_run(trainer: Trainer) -> None:
    responses, rollup = draw(trainer), Rollup(trainer.objective)
    before = named_weights(trainer.learner.params)

    def take(advantage: float) -> None:
        advantages = np.full(16, advantage, dtype=np.float32)
        batch = mini_batch(trainer, responses, advantages, Plan(advantages), np.arange(16))
        update(trainer, batch, [old_pass(trainer, part, batch.denominator) for part, _ in batch.parts], rollup)

    for attempt in (1, 2):
        take(float("nan"))
        assert trainer.bad_steps == attempt
    after = named_weights(trainer.learner.params)
    assert all((after[name] == weight).all() for name, weight in before.items())
    take(1.0)
    assert (trainer.bad_steps, trainer.optimizer_steps) == (0, 1), "a good step forgives"
    after = named_weights(trainer.learner.params)
    assert any((after[name] != weight).any() for name, weight in before.items())
    assert rollup.row()["skipped_steps"] == 2
    for _ in range(2):
        take(float("nan"))
    with pytest.raises(TrainingFailure, match="3 gradients in a row were not finite, in rollout 1"):
        take(float("nan"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_log_prob_that_is_not_finite_skips_its_step(trainer: Trainer, value: float) -> None:
    """Also where the gradient is finite: the ratio to an old log-prob of +∞ is 0, and has none."""
    advantages, rollup = np.ones(16, dtype=np.float32), Rollup(trainer.objective)
    before = named_weights(trainer.learner.params)
    batch = mini_batch(trainer, draw(trainer), advantages, Plan(advantages), np.arange(16))
    old = np.array(old_pass(trainer, batch.parts[0][0], batch.denominator).logp)
    old[0, 0] = value
    update(trainer, batch, [Old(old, None)], rollup)
    assert (trainer.bad_steps, trainer.optimizer_steps) == (1, 0)
    after = named_weights(trainer.learner.params)
    assert all((after[name] == weight).all() for name, weight in before.items())
    assert rollup.row()["skipped_steps"] == 1


def test_old_log_probs_and_updates_are_one_compiled_program(trainer: Trainer) -> None:
    """Two programs may round differently, and log s at unmoved weights would not be 0."""
    advantages = np.ones(16, dtype=np.float32)
    batch = mini_batch(trainer, draw(trainer), advantages, Plan(advantages), np.arange(16))
    olds = [old_pass(trainer, part, batch.denominator) for part, _ in batch.parts]
    compiled = differentiate._cache_size()
    update(trainer, batch, olds, Rollup(trainer.objective))
    assert differentiate._cache_size() == compiled


def test_logits_that_are_not_finite_end_the_run(trainer: Trainer) -> None:
    trainer.learner.params = jax.tree.map(lambda x: x * jnp.nan, trainer.learner.params)
    with pytest.raises(TrainingFailure, match="logits are not finite"):
        draw(trainer)


@pytest.mark.parametrize(("shift", "kinds"), [(0.0, []), (0.1, ["SAMPLER_GAP"])])
def test_a_sampler_of_another_policy_is_said(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, shift: float, kinds: list[str]
) -> None:
    coin = iter(range(10**6))
    monkeypatch.setattr(trainer.task, "verifier", Paid(lambda _: float(next(coin) % 2)))
    right = rollout_jax.generate

    def shifted(*arguments: Any) -> Any:
        tokens, mask, logp, finite = right(*arguments)
        return tokens, mask, logp + shift, finite

    monkeypatch.setattr(rollout_jax, "generate", shifted)
    row = one_rollout(trainer)
    assert row["sampler_gap"] == pytest.approx(shift, abs=1e-5)
    assert [finding["kind"] for finding in row["findings"] if finding["kind"].startswith("SAMPLER")] == kinds
    assert 0 <= row["ended"] <= 1


@pytest.mark.parametrize("lr", [0.0, 1e-3])
def test_log_s_is_exactly_zero_until_the_policy_moves(
    task: Task, saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lr: float
) -> None:
    trainer = make_trainer(task, saved, tmp_path, lr=lr, micro_batch_size=3)
    # Half of the answers right, or no response of a random model has an advantage.
    coin = iter(range(10**6))
    monkeypatch.setattr(trainer.task, "verifier", Paid(lambda _: float(next(coin) % 2)))
    row = one_rollout(trainer)
    assert len(row["log_s"]) == 16
    assert row["grad_norm"] > 0
    assert row["by_mini_batch"][0] == {"clip_fraction": 0.0, "log_s_rms": 0.0}
    moved = [part["log_s_rms"] > 0 for part in row["by_mini_batch"][1:]]
    assert moved == [lr > 0] * 3
    assert (row["max_abs_log_s"] == 0) == (lr == 0)
    assert row["clip_low"] + row["clip_high"] == pytest.approx(row["clip_fraction"])
