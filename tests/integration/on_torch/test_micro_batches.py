"""Forward passes by tokens: every row once, none too wide, and the same gradient."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.runs.torch_trainers import draw, make_trainer

from gspo_core.planning import Plan
from integration.on_torch.batches import mini_batch
from integration.on_torch.micro_batches import by_tokens
from integration.on_torch.passes import old_pass
from integration.on_torch.recompute import enable_recomputing
from integration.on_torch.training import update
from integration.options.config import Config
from integration.options.errors import UserError
from integration.shared.measure import Rollup
from integration.tasks.task import Task

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 200)), max_size=40)


def size(lengths: list[tuple[int, int]], piece: list[int]) -> int:
    """Tokens of a piece, padding included."""
    return len(piece) * (max(lengths[i][0] for i in piece) + max(lengths[i][1] for i in piece))


@given(lengths=LENGTHS, limit=st.integers(1, 1000))
def test_every_row_is_in_one_piece_and_no_piece_is_too_large(lengths: list[tuple[int, int]], limit: int) -> None:
    pieces = by_tokens(lengths, limit)
    assert sorted(index for piece in pieces for index in piece) == list(range(len(lengths)))
    assert all(len(piece) == 1 or size(lengths, piece) <= limit for piece in pieces)


@given(lengths=LENGTHS.filter(bool), limit=st.integers(1, 1000))
def test_no_two_neighbouring_pieces_would_fit_into_one(lengths: list[tuple[int, int]], limit: int) -> None:
    """Else passes would be smaller than they need to be."""
    pieces = by_tokens(lengths, limit)
    for piece, following in pairwise(pieces):
        assert size(lengths, [*piece, following[0]]) > limit


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("again", [False, True])
def test_micro_batches_by_tokens_and_recomputed_layers_change_no_gradient(
    task: Task, tmp_path: Path, dtype: str, again: bool
) -> None:
    """In bfloat16 within its rounding: a product's row does not depend on the others, a sum over rows does."""
    found = []
    for options in ({}, {"micro_batch_tokens": 120, "gradient_checkpointing": again}):
        trainer = make_trainer(task, tmp_path, dtype=dtype, lr=0.0, max_grad_norm=1e9, **options)
        if options.get("gradient_checkpointing"):
            enable_recomputing(trainer.model)
        responses, rollup = draw(trainer), Rollup(trainer.objective)
        advantages = torch.linspace(-1.0, 1.0, len(responses.mask))
        batch = mini_batch(trainer, responses, advantages, Plan(advantages), torch.arange(len(advantages)))
        update(trainer, batch, [old_pass(trainer, part, rollup) for part, _ in batch.parts], rollup)
        found.append((len(batch.parts), [parameter.grad for parameter in trainer.model.parameters()]))
    (one, expected), (several, gradients) = found
    assert (one, several > 2) == (1, True)
    budget = 2e-6 if dtype == "float32" else 2e-2
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert wanted.abs().max() > 0
        assert (gradient - wanted).abs().max() <= budget * wanted.abs().max()


def test_both_sizes_at_once_are_refused() -> None:
    with pytest.raises(UserError, match=r"^--micro-batch-tokens: takes the place of --micro-batch-size"):
        Config(micro_batch_size=2, micro_batch_tokens=100)
