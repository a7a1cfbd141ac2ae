"""Entropies to be looked at, without a bonus: those of full logits, from the pass that the loss needs anyway, and constants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gspo_torch.lm_head import aligned, blocks, exponentials, two_pass
from gspo_torch.lm_head.blocks import cached_logits
from hypothesis import given
from hypothesis import strategies as st
from support.draws import at_most
from support.lm_head.agreement import assert_in_budget, error, is_clear_of_kinks
from support.lm_head.cases import Problem, from_logits, log_softmax_of, logits_of, make, ours, problems, small_pieces
from torch import Tensor

pytestmark = pytest.mark.slow

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
TILES = st.tuples(st.integers(1, 9), st.integers(1, 25))


def ring(problem: Problem, rows: int) -> int:
    """budget_bytes for the aligned way with a buffer of this many rows of logits, and what entropies need beside it."""
    wide = 8 if torch.float64 in (problem.hidden.dtype, problem.lm_head.dtype) else 4
    vocabulary = len(problem.lm_head)
    low = problem.lm_head.numel() + problem.hidden.numel() + vocabulary if problem.lm_head.element_size() != wide else 0
    return (rows * vocabulary + low + cached_logits(min(exponentials.WIDE, vocabulary))) * wide


def entropies(problem: Problem, dtype: torch.dtype) -> Tensor:
    """Token array, from full logits in a dtype; 0 in masked slots."""
    log_p = log_softmax_of(problem, dtype, {})[0].detach()
    return torch.where(problem.layout.valid, torch.special.entr(log_p.exp()).sum(-1), 0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@at_most(8)
@given(problem=problems(), tile=TILES, rows=st.integers(1, 12))
def test_entropies_are_those_of_full_logits_in_every_scheme(
    dtype: torch.dtype, problem: Problem, tile: tuple[int, int], rows: int
) -> None:
    """And the loss and its gradients stay the truth; with a bonus they come without being asked for, and are the same."""
    problem = problem.to(dtype)
    if not is_clear_of_kinks(problem):
        return
    truth, exact = from_logits(problem), entropies(problem, torch.float64)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    z = logits_of(problem, torch.float64, {}).abs().amax().item() if problem.tokens.numel() else 0.0
    nats = torch.finfo(wide).eps * (problem.hidden.shape[-1] * (1 + z) + len(problem.lm_head) + problem.tokens.numel())
    with small_pieces(tile):
        for budget in (0, ring(problem, rows)):
            found = problem.loss(return_entropy=True, budget_bytes=budget).entropy
            assert found is not None
            assert found.shape == problem.layout.shape
            assert not found.requires_grad
            assert not found[~problem.layout.valid].any()
            assert error(found, exact) <= error(entropies(problem, wide), exact) + nats * (1 + 2 * z)
            assert_in_budget(problem, ours(problem, return_entropy=True, return_logp=True, budget_bytes=budget), truth)


@pytest.mark.parametrize("rows", [0, 4, 100], ids=["two-pass", "mixed", "aligned"])
def test_no_bit_of_the_loss_and_no_product_is_another(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside return_logp=True, which needs the same tokens: as many products, of the same shapes, with the same results."""
    problem = make(lengths=(3, 5, 2, 6, 1), vocabulary=23).to(torch.float32)
    products: list[tuple[torch.Size, torch.Size]] = []
    real = blocks.matmul

    def matmul(a: Tensor, b: Tensor, *rest: Any, **more: Any) -> None:
        products.append((a.shape, b.shape))
        real(a, b, *rest, **more)

    for module in (blocks, exponentials, two_pass):
        monkeypatch.setattr(module, "matmul", matmul)
    seen = []
    with small_pieces((4, 9)):
        for more in ({}, {"return_entropy": True}):
            products.clear()
            budget = (rows * 23 + cached_logits(min(exponentials.WIDE, 23)) * bool(more)) * 4 if rows else 0
            seen.append((ours(problem, return_logp=True, budget_bytes=budget, **more), list(products)))
    (plain, before), (looked_at, after) = seen
    assert before == after
    assert torch.equal(plain.value, looked_at.value)
    assert torch.equal(plain.weight, looked_at.weight)
    for name, gradient in plain.gradients.items():
        assert torch.equal(gradient, looked_at.gradients[name])


def test_the_scheme_is_the_aligned_one_if_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entropy bonus needs the two-pass scheme, entropies do not."""
    calls: list[bool] = []
    real = aligned.run
    monkeypatch.setattr(aligned, "run", lambda *a: (calls.append(a[-1]), real(*a))[1])
    problem = make()
    with small_pieces((4, 9)):
        problem.loss(return_entropy=True)
        problem.loss(entropy_bonus=0.1)
    assert calls == [True]


def test_excluded_tokens_leave_the_entropy_finite() -> None:
    """A bias of −∞, as in a padded vocabulary, in both schemes: p log p is 0 there."""
    problem = make()
    assert problem.bias is not None
    with torch.no_grad():
        problem.bias[6:] = -torch.inf
    problem.tokens.remainder_(6)
    for budget in (0, 2**20):
        found = problem.loss(return_entropy=True, budget_bytes=budget).entropy
        assert found is not None
        torch.testing.assert_close(found, entropies(problem, torch.float64), rtol=0, atol=1e-12)


def test_without_being_asked_there_is_none() -> None:
    assert make().loss().entropy is None
