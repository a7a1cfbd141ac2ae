"""A rollout that several processes draw is the one that a single process draws."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs.thread_ranks import Threads, on_threads
from support.runs.torch_trainers import make_trainer

from integration.on_torch.sampling.noise import Noise
from integration.on_torch.sampling.rollout import WATCHED, Responses
from integration.on_torch.trainer import Trainer
from integration.tasks.task import Task


def drawn(trainer: Trainer, ranks: Any, prompts: int, **changes: Any) -> tuple[Responses, torch.Tensor]:
    """Responses to some questions, three each, and the state of the random numbers afterwards."""
    sampler = dataclasses.replace(trainer.sampler, **({} if ranks is None else {"ranks": ranks}), **changes)
    generator = torch.Generator().manual_seed(5)
    return sampler.draw(trainer.task.train[:prompts], 3, generator), generator.get_state()


@pytest.mark.parametrize(("processes", "prompts"), [(2, 7), (3, 5), (4, 2)])
def test_several_processes_draw_what_one_draws(trainer: Trainer, processes: int, prompts: int) -> None:
    """Also if there are more processes than prompts; every process has the whole, and goes on with the same numbers."""
    expected, state = drawn(trainer, None, prompts, keep_logp=True)
    assert len({int(n) for n in expected.mask.sum(-1)}) > 1, "all responses have one length: their padding is not tested"

    def one(ranks: Threads) -> Any:
        return drawn(trainer, ranks, prompts, keep_logp=True)

    for found, after in on_threads(processes, one):
        for name in ("prompt_ids", "prompt_mask", "tokens", "mask"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert found.logp is not None
        assert expected.logp is not None
        assert torch.allclose(found.logp, expected.logp, atol=1e-5, rtol=0)
        assert torch.equal(after, state)
        assert found.watched is not None
        rows = sorted(found.watched)
        assert (rows[0], len(rows)) == (0, min(WATCHED, prompts))
        for row, values in found.watched.items():
            assert torch.equal(values, found.logp[row])


@pytest.mark.slow
def test_routes_of_several_processes_are_those_of_one(task: Task, tmp_path: Path) -> None:
    trainer = make_trainer(task, tmp_path, model="small-moe")
    expected, _ = drawn(trainer, None, 5, keep_routes=True)
    assert expected.routes is not None

    def one(ranks: Threads) -> Any:
        return drawn(trainer, ranks, 5, keep_routes=True, model=copy.deepcopy(trainer.model))

    for found, _ in on_threads(2, one):
        assert torch.equal(found.routes.routed, expected.routes.routed)
        routed = expected.routes.routed[None, :, :, None]
        assert torch.equal(found.routes.experts * routed, expected.routes.experts * routed)


def test_the_numbers_of_a_row_do_not_depend_on_the_rows_beside_it() -> None:
    whole, part = (Noise.drawn_from(torch.Generator().manual_seed(3), 10) for _ in range(2))
    part = part.beginning_at(6)
    columns = [(whole.next(), part.next()) for _ in range(4)]
    for all_rows, own in columns:
        assert torch.equal(all_rows[6:], own)
    assert len({float(x) for all_rows, _ in columns for x in all_rows}) == 40, "no number comes twice"


def test_a_generator_gives_one_number_however_long_the_responses_are() -> None:
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    noises = [Noise.drawn_from(generator, rows) for generator, rows in zip(generators, (4, 4), strict=True)]
    for _ in range(9):
        noises[0].next()
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    assert not torch.equal(Noise.drawn_from(generators[0], 4).next(), noises[1].next()), "the next rollout has others"
