"""A run that is stopped on one mesh, between two optimizer steps, and resumed on another continues the same trajectory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from support.jax_programs.on_meshes import name_of, trainer_on
from support.runs.in_process import Paid
from support.runs.stops import StopAfter

from integration.on_jax.trainer import Trainer
from integration.on_jax.training import one_rollout
from integration.on_jax.weights import named_weights
from integration.shared.interrupt import Abandoned

ROLLOUTS = 3
FIRST, ONE, OTHER = (2, 2), (1, 1), (8, 1)
NEAR = 1e-3
"""Share of the way that the parameters moved, by which they may differ at the end: float32 sums in another order."""


def rest(trainer: Trainer, *stop: Any) -> list[dict[str, Any]]:
    """The lines of the rollouts that are left, without their seconds."""
    rows = []
    while trainer.step < ROLLOUTS:
        rows.append({name: x for name, x in one_rollout(trainer, *stop).items() if not name.startswith("seconds")})
        trainer.step += 1
    return rows


def paid(trainer: Trainer) -> Trainer:
    """Answers with many letters of the first half of the alphabet pay: most groups have an advantage."""
    object.__setattr__(trainer.task, "verifier", Paid(lambda text: sum(c < "m" for c in text) / max(1, len(text))))
    return trainer


def claims(folder: Path) -> Iterator[tuple[str, bool]]:
    """Name and whether it holds."""
    whole, stopped = (paid(trainer_on(FIRST, folder / name)) for name in ("whole", "stopped"))
    begun, lines = named_weights(whole.learner.params), rest(whole)
    end = named_weights(whole.learner.params)
    stop = StopAfter(stopped, 6)
    try:
        rest(stopped, stop)
    except Abandoned:
        yield "a stop in the second of three rollouts", stopped.step == 1 and stopped.unfinished is not None
    stopped.save()
    (checkpoint,) = stopped.folder.checkpoints()
    again = resumed(FIRST, folder, checkpoint)
    yield "resumed on the same mesh, bit for bit", rest(again) == lines[1:] and same(named_weights(again.learner.params), end)
    one, other = (resumed(mesh, folder, checkpoint) for mesh in (ONE, OTHER))
    for mesh, trainer in ((ONE, one), (OTHER, other)):
        pairs = zip(*(jax.tree.leaves(t.learner.optimizer_state) for t in (stopped, trainer)), strict=True)
        yield f"restored on {name_of(mesh)}, bit for bit", all((np.asarray(a) == np.asarray(b)).all() for a, b in pairs)
    found, there = rest(other), named_weights(other.learner.params)
    drawn = [[row[name] for name in ("reward", "response_length", "lengths", "signs")] for row in (*lines[1:], *found)]
    yield f"resumed on {name_of(OTHER)}: the same answers", drawn[: ROLLOUTS - 1] == drawn[ROLLOUTS - 1 :]
    far = distance(there, end) / distance(begun, end)
    print(f"note: resumed on {name_of(OTHER)}: parameters differ by {far:.1e} of the way")
    yield f"resumed on {name_of(OTHER)}: the same end", far <= NEAR
    yield "the trajectory is not vacuous", all(row["grad_norm"] > 0 and row["max_abs_log_s"] > 1e-3 for row in lines)


def resumed(mesh: tuple[int, int], folder: Path, checkpoint: Path) -> Trainer:
    """A trainer on that mesh, from the checkpoint."""
    trainer = paid(trainer_on(mesh, folder / f"on {name_of(mesh)}", checkpoint))
    trainer.restore(checkpoint)
    return trainer


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """In every bit."""
    return all((a[name] == x).all() for name, x in b.items())


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Between all parameters."""
    return float(np.sqrt(sum(np.square(a[name] - x, dtype=np.float64).sum() for name, x in b.items())))
