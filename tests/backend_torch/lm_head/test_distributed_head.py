"""An LM head that is a DTensor, as FSDP2 and tensor parallelism leave it, is a head: gathered, with its gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.lm_head import distributed_heads
from support.lm_head.cases import from_logits
from support.lm_head.distributed_heads import BUDGETS, PLACEMENTS, READ, UNITS, WORLD, Tail, problem_of
from support.lm_head.processes import on_ranks
from torch import Tensor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes answered."""
    return on_ranks(distributed_heads.main, WORLD, tmp_path_factory.mktemp("ranks"))


def within(actual: Tensor, expected: Tensor) -> None:
    """1e-12 of the largest entry."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().amax() <= 1e-12 * expected.abs().amax()


@pytest.mark.parametrize("bytes_", BUDGETS, ids=["two-pass", "aligned"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_on_ranks_with_the_same_tokens_it_is_the_whole_head(ranks: list[dict[str, Any]], placement: str, bytes_: int) -> None:
    truth = from_logits(problem_of(0))
    for rank in ranks:
        answer = rank[f"{placement}, same, {bytes_}"]
        within(answer["value"], truth.value)
        for name, gradient in truth.gradients.items():
            within(answer[name], gradient)


@pytest.mark.parametrize("case", [*(f"{p}, own, {b}" for p in PLACEMENTS for b in BUDGETS), "fsdp"])
def test_on_ranks_with_tokens_of_their_own_its_gradient_is_their_mean(ranks: list[dict[str, Any]], case: str) -> None:
    """As FSDP2 averages all others; values and gradients of hidden states are each rank's own."""
    truths = [from_logits(problem_of(rank)) for rank in range(WORLD)]
    for rank, truth in zip(ranks, truths, strict=True):
        within(rank[case]["value"], truth.value)
        within(rank[case]["hidden"], truth.gradients["hidden"])
        for name in ("lm_head", "bias"):
            within(rank[case][name], sum(t.gradients[name] for t in truths) / WORLD)  # type: ignore[arg-type]  # gradients are there


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("unit", UNITS)
def test_as_any_unit_of_fsdp2_it_has_the_mean_gradient(ranks: list[dict[str, Any]], unit: str, read: str) -> None:
    """A unit of its own, one with the norm before it, or one of everything; gathered by the loss, or by FSDP2."""
    mean: dict[str, Tensor] = {}
    for rank, answers in enumerate(ranks):
        problem = problem_of(rank)
        tail = Tail(problem)
        hidden = tail.normed(problem)
        truth = from_logits(replace(problem, hidden=hidden))
        (norm,) = torch.autograd.grad(hidden, tail.norm.weight, truth.gradients["hidden"])
        within(answers[f"{unit}, {read}"]["value"], truth.value)
        own = {"norm.weight": norm, "head.weight": truth.gradients["lm_head"], "head.bias": truth.gradients["bias"]}
        mean = {name: mean.get(name, 0.0) + gradient / WORLD for name, gradient in own.items()}
    for answers in ranks:
        for name, gradient in mean.items():
            within(answers[f"{unit}, {read}"][name], gradient)


def test_full_tensor_alone_has_another_gradient(ranks: list[dict[str, Any]]) -> None:
    """Each rank's rows have what that rank's tokens say of them, and the other ranks' are lost: why the loss gathers itself."""
    truths = [from_logits(problem_of(rank)).gradients["lm_head"] for rank in range(WORLD)]
    mean, found = sum(truths) / WORLD, ranks[0]["full_tensor alone"]  # type: ignore[arg-type]  # gradients are there
    assert float((found - mean).norm() / mean.norm()) > 0.3
    rows = -(-len(mean) // WORLD)
    within(found[:rows], truths[0][:rows])
    within(found[rows:], truths[1][rows:])


def test_with_a_vocabulary_shard_its_own_rows_are_the_shard(ranks: list[dict[str, Any]]) -> None:
    truth = from_logits(problem_of(0))
    for rank in ranks:
        within(rank["shard"]["value"], truth.value)
        for name, gradient in truth.gradients.items():
            within(rank["shard"][name], gradient)
