"""A program, run by tests/integration/on_jax/test_mesh.py with 8 host devices: prints one line per claim that holds.

One update and all its parts, on meshes of data × model devices against one device; the model is that of the parity run, whose
vocabulary of 109 no mesh cuts equally and whose two heads of keys four devices do not share.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from support.jax_programs import gradients_on_meshes, resuming_on_meshes
from support.jax_programs.on_meshes import EXACT, MESHES, TASK, TOKENIZER, name_of, trainer_on

from integration.on_jax.mesh import mesh_of, names_of
from integration.on_jax.rollout import random_keys
from integration.on_jax.trainer import Trainer
from integration.options.errors import UserError
from integration.parity import on_jax as parity
from integration.parity import reference as golden
from integration.parity.comparison import compare
from integration.parity.reference import Golden, Run

os.environ["PJRT_NPROC"] = "16"
jax.config.update("jax_cpu_enable_async_dispatch", False)  # as `set_up` does, before the first device is asked for


def claims(folder: Path) -> Iterator[tuple[str, bool]]:
    """Name and whether it holds."""
    stored = golden.load()
    yield "more devices than there are are refused", is_refused(4, 4)
    yield from updates(stored, folder)
    yield from golden_updates(stored, folder)
    yield from gradients_on_meshes.claims(folder)
    yield from samples(folder)
    yield from resuming_on_meshes.claims(folder)


def is_refused(data: int, model: int) -> bool:
    """In a sentence that says how many there are."""
    try:
        mesh_of(data, model)
    except UserError as error:
        return f"--data-parallel {data} --model-parallel {model}: expected 16 devices, JAX sees 8" in str(error)
    return False


def updates(stored: Golden, folder: Path) -> Iterator[tuple[str, bool]]:
    """The four updates of a stored rollout in float64; three of them clip."""

    def run(mesh: tuple[int, int]) -> tuple[Run, Trainer]:
        trainer = trainer_on(mesh, folder / name_of(mesh), **GOLDEN)
        parity.widen(trainer)
        return parity.follow(trainer, stored.rollouts[:1]), trainer

    with jax.enable_x64(True):
        truth, one = run((1, 1))
        for mesh in MESHES:
            found, trainer = run(mesh)
            far = max(np.abs(found.parameters[name] - x).max() for name, x in truth.parameters.items())
            print(f"note: {name_of(mesh)}: parameters differ by {far:.1e}")
            yield f"{name_of(mesh)}: parameters in float64", bool(far <= EXACT)
            yield f"{name_of(mesh)}: clip decisions", [u.clipped for u in found.updates] == [u.clipped for u in truth.updates]
            yield f"{name_of(mesh)}: log s is 0 before the first update", not np.any(found.updates[0].log_s)
            yield f"{name_of(mesh)}: all lies where the rule says", lies_as_ruled(trainer)
            if mesh == (2, 4):
                yield "shares of the devices", shares(trainer) == SHARES
    clipped = [c for u in truth.updates for c in u.clipped]
    moved = max(np.abs(truth.parameters[name] - x).max() for name, x in parity.named_weights(start(one)).items())
    yield "updates are not vacuous", any(clipped) and not all(clipped) and bool(moved > 1e-4)


GOLDEN = {"lr_warm_up": 4, "max_grad_norm": 2.5}


def start(trainer: Trainer) -> Any:
    """The weights before any update."""
    return trainer_on((1, 1), trainer.folder.path / "start").learner.params


def lies_as_ruled(trainer: Trainer) -> bool:
    """Parameters and moments, after their updates."""
    learner = trainer.learner
    pairs = jax.tree_util.tree_leaves_with_path((learner.params, learner.optimizer_state))
    expected = [(x, NamedSharding(learner.place.mesh, learner.place.spec(names_of(path), x.shape))) for path, x in pairs]
    return all(x.sharding.is_equivalent_to(where, x.ndim) for x, where in expected)


SHARES = {
    "q_proj": (32, 8), "k_proj": (32, 16), "o_proj": (8, 32), "gate_proj": (32, 24), "down_proj": (24, 32),
    "embed_tokens": (109, 32), "norm": (32,),
}  # fmt: skip
"""Of parameters [32, 32], [32, 16], [32, 32], [32, 96], [96, 32], [109, 32], [32] on four devices."""


def shares(trainer: Trainer) -> dict[str, tuple[int, ...]]:
    """The shape of the first device's part, and of its second moments."""
    found = {}
    for tree in (trainer.learner.params, trainer.learner.optimizer_state[1][0].nu):
        for path, x in jax.tree_util.tree_leaves_with_path(tree):
            for name in set(SHARES) & set(names_of(path)):
                shape = x.addressable_shards[0].data.shape
                assert found.setdefault(name, shape) == shape
    return found


def golden_updates(stored: Golden, folder: Path) -> Iterator[tuple[str, bool]]:
    """All twenty in float32, within the budget of the golden file."""
    mesh = (2, 4)
    run = parity.follow(trainer_on(mesh, folder / "golden", **GOLDEN, clip_low=0.03, clip_high=0.04), stored.rollouts)
    found = compare(run, stored)
    print(f"note: {found}")
    yield "the golden twenty updates", found.ok and found.missing == () and len(found.deviations) > 100
    yield "log s is 0 at the start of each rollout", not any(np.any(u.log_s) for u in run.updates[::4])


def samples(folder: Path) -> Iterator[tuple[str, bool]]:
    """The same random numbers and so the same tokens, wherever a row lies and however many rows fill the batch up."""

    def draw(mesh: tuple[int, int], *, greedy: bool = False) -> Any:
        sampler = trainer_on(mesh, folder / "samples").sampler
        return sampler.draw(TASK.train[:5], 1 if greedy else 4, None if greedy else random_keys(3, 0))

    truth, certain = draw((1, 1)), draw((1, 1), greedy=True)
    for mesh in [(3, 1), (2, 4)]:
        found = draw(mesh)
        same = (found.tokens == truth.tokens).all() and (found.mask == truth.mask).all()
        close = np.abs(found.logp - truth.logp)[truth.mask].max() < 1e-5
        yield f"{name_of(mesh)}: samples", bool(same and close)
    yield "greedy samples", bool((draw((2, 4), greedy=True).tokens == certain.tokens).all())
    yield "samples are not vacuous", len({tuple(row) for row in truth.tokens.tolist()}) > 10
    key = jax.random.key(1)
    noise = [np.asarray(jax.random.gumbel(key, (rows, 109))) for rows in (8, 24)]
    yield "noise of a row does not depend on the number of rows", bool((noise[0] == noise[1][:8]).all())


if __name__ == "__main__":
    assert TOKENIZER is not None
    with tempfile.TemporaryDirectory() as name:
        for claim, holds in claims(Path(name)):
            print(f"{'holds' if holds else 'FAILS'}: {claim}", flush=True)
