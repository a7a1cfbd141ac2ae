"""The model that is made here is kept by everything that determines it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs.in_process import in_process

from integration.on_torch.small_model import build_tokenizer, load_small, make_small, small_sizes
from integration.options.errors import UserError
from integration.options.sizes import Experts, WarmUp
from integration.tasks.task import Task, load_task

QUICK = WarmUp(target=0.0, check_every=1, check_prompts=4, batch_size=4, layers=1, hidden=16)
CPU = torch.device("cpu")


def counting(*args: str, train_size: int = 20) -> Task:
    """Bits of small numbers."""
    return in_process(load_task("count_bits", args or ("max_n=63",), seed=0, train_size=train_size, held_out_size=5))


def test_each_of_its_ingredients_makes_another_model(tmp_path: Path) -> None:
    task = counting()
    usual: dict[str, Any] = {"task": task, "warm_up": QUICK, "seed": 0, "max_new_tokens": 3, "cache": tmp_path, "device": CPU}
    first = make_small(**usual)
    others = [
        {"seed": 1},
        {"max_new_tokens": 4},
        {"experts": Experts(4, 1)},
        {"warm_up": replace(QUICK, lr=1e-3)},
        {"task": counting(train_size=21)},
        {"task": counting("max_n=63", "min_n=2")},
    ]
    folders = [make_small(**{**usual, **other}) for other in others]
    assert len({first, *folders}) == len(others) + 1
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert make_small(**{**usual, "task": counting()}) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written


def test_a_loaded_model_fits_its_tokenizer(tmp_path: Path) -> None:
    task = counting()
    model, tokenizer = load_small(task, QUICK, cache=tmp_path, seed=0, max_new_tokens=3, device=CPU)
    assert model.config.vocab_size == len(tokenizer) == small_sizes(build_tokenizer(task.train), QUICK).vocabulary
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert not model.training


def test_a_warm_up_that_does_not_reach_its_target_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    hard = replace(QUICK, target=1.0, max_steps=1)
    with pytest.raises(UserError, match=r"^--model small: warm-up reached \d+% after 1 steps, not 100%"):
        make_small(counting(), hard, cache=tmp_path, seed=0, max_new_tokens=3, device=CPU)
    unsolved = counting()
    unsolved.train[0] = replace(unsolved.train[0], answer=None)
    with pytest.raises(UserError, match=r"^--model small: the task count_bits has no solutions to warm up on"):
        make_small(unsolved, QUICK, cache=tmp_path, seed=0, max_new_tokens=3, device=CPU)
    assert list(tmp_path.iterdir()) == []
