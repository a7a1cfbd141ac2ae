"""Checkpoints of the JAX script: every bit comes back, another model is refused, a full disk leaves the one before whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs.broken_disk import longest_file
from support.runs.jax_trainers import make_trainer

from integration.on_jax.checkpoint import restore_checkpoint, write_checkpoint
from integration.on_jax.learner import Learner
from integration.on_jax.trainer import Trainer, model_files
from integration.on_jax.weights import load_decoder
from integration.on_torch.qwen3 import build_qwen3
from integration.on_torch.small_model import small_sizes
from integration.options.errors import NotWritten, UserError
from integration.options.sizes import WarmUp
from integration.records.checksums import damage
from integration.tasks.task import Task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def test_a_checkpoint_gives_back_every_bit(trainer: Trainer, task: Task, saved: Any, tmp_path: Path) -> None:
    trainer.learner.step(jax.tree.map(jnp.ones_like, trainer.learner.params))
    (tmp_path / "checkpoints").mkdir()
    trainer.step = 7
    trainer.save()
    (path,) = trainer.folder.checkpoints()
    again = make_trainer(task, (saved[0], saved[1], path), tmp_path)  # the weights are read from the checkpoint
    fresh = jax.tree.leaves(again.learner.optimizer_state)
    again.restore(path)
    assert again.step == 7
    for learner in (lambda t: t.learner.params, lambda t: t.learner.optimizer_state):
        pairs = list(zip(jax.tree.leaves(learner(trainer)), jax.tree.leaves(learner(again)), strict=True))
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in pairs)
    restored = jax.tree.leaves(again.learner.optimizer_state)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(fresh, restored, strict=True))
    (path / "state.json").unlink()
    with pytest.raises(UserError, match="was not written by the JAX script"):
        again.restore(path)


def test_a_checkpoint_of_another_model_is_refused(trainer: Trainer, saved: Any, tmp_path: Path) -> None:
    larger = build_qwen3(small_sizes(saved[1], WarmUp(layers=3, hidden=32)), 0)
    larger.save_pretrained(tmp_path / "larger")
    other = Learner(load_decoder(tmp_path / "larger"), lr=1e-3, lr_warm_up=0, max_grad_norm=1.0)
    (tmp_path / "checkpoint").mkdir()
    write_checkpoint(tmp_path / "checkpoint", other, saved[1], model_files(saved[2]), {"step": 1})
    with pytest.raises(UserError, match="is a checkpoint of another model"):
        restore_checkpoint(tmp_path / "checkpoint", trainer.learner)


@pytest.mark.parametrize("size", [0, 500, 5000, 50_000])
def test_a_checkpoint_on_a_full_disk_is_named_and_the_one_before_is_whole(trainer: Trainer, size: int) -> None:
    """The file that is too large is written by Python, by Rust or by C++."""
    trainer.folder.create(trainer.config.to_json())
    trainer.step = 1
    trainer.save()
    trainer.step = 2
    with longest_file(size), pytest.raises(NotWritten, match=r"000002 could not be written: .*whole checkpoint is .*000001\."):
        trainer.save()
    assert [(path.name, damage(path)) for path in (trainer.folder.path / "checkpoints").iterdir()] == [("000001", None)]
    trainer.save()
    assert damage(trainer.folder.path / "checkpoints" / "000002") is None
    trainer.folder.close()
