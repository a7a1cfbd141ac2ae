"""A rollout that is stopped between any two optimizer steps, saved and gone on with, ends as one that nobody disturbed.

In the JAX script; on_torch/test_unfinished.py has PyTorch's, and what its file may hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runs.in_process import Paid
from support.runs.jax_trainers import make_trainer, promotion, save_model, words
from support.runs.stops import StopAfter

from integration.on_jax.reference import Reference
from integration.on_jax.trainer import Trainer
from integration.on_jax.training import one_rollout
from integration.on_jax.weights import named_weights
from integration.options.errors import UserError
from integration.records.run_folder import UNFINISHED
from integration.shared.interrupt import Abandoned
from integration.tasks.task import Task

pytestmark = pytest.mark.slow
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "micro-batches": {"micro_batch_size": 2, "objective": "grpo"},
    "a penalty": {"kl": "k3", "kl_coefficient": 0.1},
}


@pytest.fixture(autouse=True)
def _standard_promotion() -> Iterator[None]:
    """Outside the suite's strict promotion, as in the script's own process."""
    with promotion():
        yield


@pytest.fixture(scope="module")
def task() -> Task:
    """What is asked."""
    return words()


@pytest.fixture(scope="module")
def saved(task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """The model that trainers start from."""
    return save_model(task, tmp_path_factory.mktemp("model"))


def made(task: Task, saved: Any, folder: Path, options: dict[str, Any]) -> Trainer:
    """A trainer, with the reference that its options ask for."""
    trainer = make_trainer(task, saved, folder, lr_warm_up=0, **options)
    if "kl" in options:
        trainer.reference = Reference(dataclasses.replace(trainer.config, model=str(saved[2])), task)
    return trainer


def rows(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, *stop: Any) -> dict[str, Any]:
    """The line of a rollout in which half of the answers are right, without its seconds."""
    coin = iter(range(10**6))
    monkeypatch.setattr(trainer.task, "verifier", Paid(lambda _: float(next(coin) % 2)))
    return {name: x for name, x in one_rollout(trainer, *stop).items() if not name.startswith("seconds")}


@pytest.mark.parametrize(("kind", "after"), [("plain", 1), ("plain", 3), ("micro-batches", 2), ("a penalty", 1)])
def test_it_ends_as_one_that_nobody_disturbed(
    task: Task, saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, after: int
) -> None:
    """Metrics and weights, bit for bit; also the rollout after it."""
    whole = made(task, saved, tmp_path / "whole", KINDS[kind])
    expected = []
    for _ in range(2):
        expected.append(rows(whole, monkeypatch))
        whole.step += 1
    assert expected[0]["grad_norm"] > 0
    assert expected[0]["max_abs_log_s"] > 0
    stopped = made(task, saved, tmp_path / "stopped", KINDS[kind])
    with pytest.raises(Abandoned):
        rows(stopped, monkeypatch, StopAfter(stopped, after))
    assert stopped.unfinished is not None
    assert stopped.unfinished.done == after
    stopped.save()
    (checkpoint,) = stopped.folder.checkpoints()
    again = made(task, (*saved[:2], checkpoint), tmp_path / "again", {})  # the weights are read from the checkpoint
    again.config = stopped.config
    again.objective, again.reference = stopped.objective, made(task, saved, tmp_path / "again", KINDS[kind]).reference
    again.restore(checkpoint)
    found = []
    for _ in range(2):
        found.append(rows(again, monkeypatch))
        again.step += 1
    assert found == expected
    weights = named_weights(again.learner.params)
    assert all((weights[name] == weight).all() for name, weight in named_weights(whole.learner.params).items())
    again.save()
    assert not (again.folder.checkpoints()[-1] / UNFINISHED).exists(), "it is over"


def test_a_file_that_is_torn_is_refused(task: Task, saved: Any, tmp_path: Path) -> None:
    trainer = made(task, saved, tmp_path / "run", {})
    trainer.save()
    (checkpoint,) = trainer.folder.checkpoints()
    (checkpoint / UNFINISHED).write_bytes(b"torn")
    with pytest.raises(UserError, match=r"^--resume: .*unfinished.pt cannot be read: "):
        trainer.restore(checkpoint)
