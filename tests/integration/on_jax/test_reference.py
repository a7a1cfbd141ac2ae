"""--kl in the JAX script: the penalty and its gradient are those of the formula, against the model the run started from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.runs.in_process import Paid
from support.runs.jax_trainers import draw, make_trainer

from gspo_core.planning import Plan
from integration.on_jax.reference import Reference
from integration.on_jax.rollout import Responses
from integration.on_jax.trainer import Trainer
from integration.on_jax.training import mini_batch, old_pass, one_rollout, update
from integration.on_jax.weights import named_weights
from integration.options.errors import UserError
from integration.shared.measure import Rollup
from integration.tasks.task import Task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]
BETA = 0.3


def with_reference(task: Task, saved: tuple[Any, Any, Path], folder: Path, **options: Any) -> Trainer:
    """A trainer whose weights are the reference's."""
    trainer = make_trainer(task, saved, folder, **options)
    trainer.reference = Reference(dataclasses.replace(trainer.config, model=str(saved[2])), task)
    return trainer


def move(trainer: Trainer) -> None:
    """Away from the reference."""
    random = np.random.default_rng(0)

    def moved(x: Any) -> Any:
        return x + jnp.asarray(0.4 * float(jnp.abs(x).mean()) * random.normal(size=x.shape), dtype=x.dtype)

    trainer.learner.params = jax.tree.map(moved, trainer.learner.params)


def log_probs(trainer: Trainer, params: Any, part: Responses) -> Any:
    """[N, T] from whole logits."""
    model = nnx.merge(trainer.learner.graph, params)
    ids, there = np.concatenate([part.prompt_ids, part.tokens], 1), np.concatenate([part.prompt_mask, part.mask], 1)
    hidden = model(ids, there)[:, part.prompt_ids.shape[1] - 1 : -1]
    logp = jax.nn.log_softmax(hidden @ model.lm_head.T, axis=-1)
    return jnp.take_along_axis(logp, jnp.asarray(part.tokens)[..., None], axis=-1)[..., 0]


def formula(name: str, logp: Any, ref: Any, mask: Any) -> Any:
    """The mean over responses, on policy, as an expression whose gradient autodiff finds."""
    x, lengths = jnp.where(mask, ref - logp, 0.0), mask.sum(-1)
    if name == "k2":
        return (jnp.where(mask, x**2 / 2, 0.0).sum(-1) / lengths).mean()
    ratio = jnp.exp(jnp.where(mask, logp - jax.lax.stop_gradient(logp), 0.0).sum(-1))
    return (ratio * (jnp.exp(x.sum(-1)) - 1 - x.sum(-1))).mean()


@pytest.mark.parametrize("name", ["k2", "sequence"])
def test_an_update_has_the_gradient_of_policy_loss_and_penalty(task: Task, saved: Any, tmp_path: Path, name: str) -> None:
    """On policy, so that the policy loss is −mean A · (mean log-prob), over all responses, with and without an advantage."""
    trainer = with_reference(task, saved, tmp_path, kl=name, kl_coefficient=BETA, micro_batch_size=5)
    move(trainer)
    part = draw(trainer)
    advantages = np.random.default_rng(1).normal(size=16).astype(np.float32)
    advantages[::3] = 0
    batch = mini_batch(trainer, part, advantages, Plan(advantages, loss_has_other_terms=True), np.arange(16))
    olds, rollup = [old_pass(trainer, piece, batch.denominator) for piece, _ in batch.parts], Rollup(trainer.objective)
    found: list[Any] = []
    trainer.learner.step = found.append  # type: ignore[method-assign]  # a spy
    update(trainer, batch, olds, rollup)

    assert trainer.reference is not None
    mask, of_params = jnp.asarray(part.mask), jax.jit(lambda params: log_probs(trainer, params, part))
    ref = of_params(trainer.reference.params)

    def whole(params: Any) -> Any:
        logp = of_params(params)
        kl = formula(name, logp, ref, mask)
        gain = (advantages * jnp.where(mask, logp, 0.0).sum(-1) / mask.sum(-1)).mean()
        return BETA * kl - gain, kl

    gradient, kl = jax.jit(jax.grad(whole, has_aux=True))(trainer.learner.params)
    expected = named_weights(gradient)
    largest = max(float(np.abs(g).max()) for g in expected.values())
    for n, g in named_weights(found[0]).items():
        # float32 passes in batches of other shapes; about a hundred terms of order one
        np.testing.assert_allclose(g, expected[n], atol=2e-5 * largest, rtol=0, err_msg=n)
    row = rollup.row()
    assert row["kl"] == pytest.approx(float(kl), abs=1e-5, rel=1e-4)
    assert row["kl"] > 1e-3
    assert len(row["log_s"]) == int((advantages != 0).sum())


def test_at_the_reference_the_estimate_is_exactly_zero_and_every_ratio_one(
    task: Task, saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = with_reference(task, saved, tmp_path, kl="k3", kl_coefficient=BETA, lr=0.0)
    coin = iter(range(10**6))
    monkeypatch.setattr(trainer.task, "verifier", Paid(lambda _: float(next(coin) % 4 == 0)))
    row = one_rollout(trainer)
    assert (row["kl"], row["max_abs_log_s"]) == (0.0, 0.0)
    assert row["grad_norm"] > 0


def test_a_checkpoint_refuses_another_reference(task: Task, saved: Any, tmp_path: Path) -> None:
    trainer = with_reference(task, saved, tmp_path / "run", kl="k3", kl_coefficient=BETA)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    trainer.save()
    checkpoint = trainer.folder.checkpoints()[-1]
    trainer.restore(checkpoint)
    trainer.reference.fingerprint = "0" * 64  # type: ignore[union-attr]  # the trainer has a reference
    with pytest.raises(UserError, match="are the reference of --kl"):
        trainer.restore(checkpoint)
