"""The parity run: on the same weights and stored responses every trainer takes the same 20 GSPO updates.

Loss, log s, clip decisions, gradient norm and parameters are judged after every update against a float64 run, by what
PyTorch's float32 costs on the same numbers: comparison.compare.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from gspo_core import GSPO
from integration.on_torch.trainer import Trainer
from integration.parity import on_jax as parity_jax
from integration.parity import on_torch as parity
from integration.parity import reference as golden
from integration.parity.comparison import MARGIN, compare
from integration.parity.reference import Golden, Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stored() -> Golden:
    """The golden file."""
    return golden.load()


def options_of(stored: Golden) -> dict[str, Any]:
    """Of the run; what is sampled is stored, so that few questions will do."""
    return {**stored.options, "train_size": 8}


def of_torch(stored: Golden, folder: Path, change: Callable[[Trainer], None] = lambda _: None) -> Run:
    """What PyTorch's trainer makes of it, after a change to the trainer."""
    trainer = parity.start(options_of(stored), folder)
    change(trainer)
    return parity.follow(trainer, stored.rollouts)


def widen(trainer: Trainer) -> None:
    """To float64."""
    parity.widen(trainer.model)


def of_jax(stored: Golden, folder: Path, wide: bool = False) -> Run:
    """What JAX's trainer makes of it, in float32 with x64 off, or in float64. optax does not keep to strict promotion."""
    with jax.enable_x64(wide), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        trainer = parity_jax.start(options_of(stored), folder)
        if wide:
            parity_jax.widen(trainer)
        return parity_jax.follow(trainer, stored.rollouts)


@pytest.fixture(scope="module")
def runs(stored: Golden, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every trainer's."""
    folder = tmp_path_factory.mktemp("parity")
    return {"torch": of_torch(stored, folder / "torch"), "jax": of_jax(stored, folder / "jax")}


by_trainer = pytest.mark.parametrize("trainer", ["torch", "jax"])


@by_trainer
def test_twenty_updates_stay_within_the_budget(trainer: str, runs: dict[str, Run], stored: Golden) -> None:
    """Clip decisions are those of float64 but for a log s within MARGIN of a bound, and log s is off by less than that."""
    found = compare(runs[trainer], stored)
    assert found.ok, str(found)
    assert found.missing == ()
    assert len(found.deviations) == 20 * 5 + len(stored.float64.parameters)
    assert max(d.allowed for d in found.deviations if d.what == "log s") <= MARGIN


def test_the_truth_is_made_again_in_float64(stored: Golden, tmp_path: Path) -> None:
    """To 1e-10: the golden file is what its script writes."""
    again, truth = of_torch(stored, tmp_path / "run", widen), stored.float64
    for a, b in zip(again.updates, truth.updates, strict=True):
        assert a.clipped == b.clipped
        for x, y in ((a.log_s, b.log_s), ([a.loss, a.grad_norm], [b.loss, b.grad_norm])):
            assert np.allclose(x, y, rtol=1e-10, atol=1e-10)
    for name, values in truth.parameters.items():
        assert np.allclose(again.parameters[name], values, rtol=0, atol=1e-10), name
        assert again.parameters[name].dtype == np.float64


def test_in_float64_jax_is_pytorch(stored: Golden, tmp_path: Path) -> None:
    """To 1e-6: rotary angles are float32, as ever."""
    run, truth = of_jax(stored, tmp_path / "run", wide=True), stored.float64
    for a, b in zip(run.updates, truth.updates, strict=True):
        assert a.clipped == b.clipped
        assert np.allclose(a.log_s, b.log_s, rtol=0, atol=1e-6)
        assert abs(a.loss - b.loss) <= 1e-6
        assert abs(a.grad_norm - b.grad_norm) <= 3e-6 * b.grad_norm
    for name, values in truth.parameters.items():
        assert np.abs(run.parameters[name] - values).max() <= 1e-5, name
        assert run.parameters[name].dtype == np.float64


# ---- guards


def test_the_run_has_what_a_run_must_stand(stored: Golden) -> None:
    """Twenty updates; ragged prompts and responses; groups without an advantage; clipping on both sides in most updates."""
    updates = stored.float64.updates
    assert len(updates) == len(stored.float32.updates) == 20
    sides = set()
    for rollout in stored.rollouts:
        assert len({len(row) for row in rollout.prompts}) > 1
        assert len({len(row) for row in rollout.responses}) > 1
        groups = np.asarray(rollout.rewards).reshape(len(rollout.prompts), -1)
        flat = groups.min(axis=1) == groups.max(axis=1)
        assert 0 < flat.sum() < len(flat)
        assert sorted(i for rows in rollout.mini_batches for i in rows) == list(range(groups.size))
    for update in updates:
        sides |= {log_s > 0 for log_s, clipped in zip(update.log_s, update.clipped, strict=True) if clipped}
    assert len({len(row) for rollout in stored.rollouts for row in rollout.responses}) >= 4
    assert sides == {True, False}
    assert sum(any(update.clipped) for update in updates) >= 12
    assert all(np.abs(u.log_s).max() == 0 for u in updates[::4]), "the first mini-batch of a rollout is on policy"
    assert all(np.abs(u.log_s).max() > 1e-3 for i, u in enumerate(updates) if i % 4)
    norms = [update.grad_norm > stored.options["max_grad_norm"] for update in updates]
    assert {True, False} == set(norms), "gradients are cut in some updates, and not in others"
    assert 1 < stored.options["lr_warm_up"] < 20


def test_almost_every_decision_is_beyond_the_margin(stored: Golden) -> None:
    bounds = math.log1p(-golden.CLIP.low), math.log1p(golden.CLIP.high)
    updates = stored.float64.updates
    made = [(min(abs(s - b) for b in bounds), c) for u in updates for s, c in zip(u.log_s, u.clipped, strict=True)]
    clear = [clipped for distance, clipped in made if distance > MARGIN]
    assert len(made) > 130
    assert len(clear) >= 0.99 * len(made)
    assert sum(clear) >= 25
    trained_with = parity.Config(**{**stored.options, "task_args": ()}).build_objective()
    assert trained_with == dataclasses.replace(GSPO, surrogate=golden.CLIP)


def decayed(trainer: Trainer) -> None:
    """AdamW's weight decay as PyTorch has it by default."""
    trainer.optimizer.param_groups[0]["weight_decay"] = 0.01


def late(trainer: Trainer) -> None:
    """The learning rate's warm-up begins one step later."""
    trainer.config = dataclasses.replace(trainer.config, lr_warm_up=trainer.config.lr_warm_up + 1)


def another_epsilon(trainer: Trainer) -> None:
    """Adam's ε."""
    trainer.optimizer.param_groups[0]["eps"] = 1e-6


def unbounded(trainer: Trainer) -> None:
    """Gradients are not cut."""
    trainer.config = dataclasses.replace(trainer.config, max_grad_norm=1e9)


def another_bound(trainer: Trainer) -> None:
    """A clip range of a percent more: it matters where a log s lies between."""
    trainer.objective = GSPO.with_clip(0.0303, 0.0404)


CHANGES = [
    (decayed, "update 1: parameters"),
    (late, "update 1: parameters"),
    (another_epsilon, "update 1: parameters"),
    (unbounded, "update 1: parameters"),
    (another_bound, "update 2: loss"),  # the gain of a clipped response is its bound
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_trainer_that_differs_a_little_is_seen(
    change: Callable[[Trainer], None], words: str, stored: Golden, tmp_path: Path
) -> None:
    found = compare(of_torch(stored, tmp_path / "run", change), stored)
    assert str(found.first).startswith(words), str(found)


def test_a_mark_moves_with_every_entry() -> None:
    x = np.linspace(-1.0, 1.0, 60).reshape(5, 12)
    for index in np.ndindex(x.shape):
        moved = x.copy()
        moved[index] += 1e-3
        assert abs(golden.mark(moved) - golden.mark(x)) > 1e-7
    noise = np.random.default_rng(0).normal(size=(200, 1000))
    spread: Any = np.std([golden.mark(row) for row in noise])
    assert spread == pytest.approx(1.0, abs=0.15)


def test_the_golden_file_is_small() -> None:
    assert sum(file.stat().st_size for file in golden.FOLDER.rglob("*") if file.is_file()) < 2**20
