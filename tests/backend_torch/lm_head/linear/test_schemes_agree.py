"""linear_policy_loss is the loss on full logits: two-pass, aligned, and mixed, in every shape, layout and dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gspo_torch
import pytest
import torch
from gspo_torch.lm_head import aligned, blocks, two_pass
from gspo_torch.lm_head.head import Head
from gspo_torch.lm_head.two_pass import Gradients
from hypothesis import Phase, assume, find, given, settings
from hypothesis import strategies as st
from support.draws import at_most
from support.lm_head.agreement import assert_in_budget, error, is_clear_of_kinks
from support.lm_head.cases import Answer, Problem, from_logits, make, ours, problems, small_pieces
from torch import Tensor

from gspo_core import GRPO, GSPO, Padded, PerToken
from gspo_core.objectives import PRESETS
from gspo_core.objectives.loss import Objective

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
QUICK = {"GSPO", "GSPO_TOKEN", "VESPO"}
"""A ratio per sequence, one per token, and a weight without an edge; each preset takes half a second."""
TILES = st.tuples(st.integers(1, 9), st.integers(1, 25))


def budget(problem: Problem, rows: int) -> int:
    """budget_bytes for the aligned way with a buffer of this many rows of logits."""
    wide = 8 if torch.float64 in (problem.hidden.dtype, problem.lm_head.dtype) else 4
    low = problem.lm_head.requires_grad and problem.lm_head.element_size() != wide
    return rows * len(problem.lm_head) * wide + problem.lm_head.numel() * wide * low


@contextmanager
def shares_seen() -> Iterator[list[float]]:
    """Shares of the vocabulary that the aligned scheme keeps of its chunks, as they come; 0: two passes."""
    kept: list[float] = []
    real = aligned.run
    with pytest.MonkeyPatch.context() as patch:

        def spy(head: Head, rows: Tensor, tokens: Tensor, cut: list[aligned.Chunk], *rest: Any) -> Tensor:
            kept.extend(chunk.kept / len(head.weight) for chunk in cut)
            return real(head, rows, tokens, cut, *rest)

        patch.setattr(aligned, "run", spy)
        yield kept


def both(problem: Problem, rows: int) -> list[Answer]:
    """Two-pass, and aligned with a buffer of so many rows: of longer sequences a part is kept, or nothing."""
    return [
        ours(problem, budget_bytes=0, return_logp=rows % 2 == 0),
        ours(problem, budget_bytes=budget(problem, rows), return_logp=rows % 3 == 0),
    ]


@pytest.mark.slow
@by_dtype
@given(problem=problems(), tile=TILES, rows=st.integers(1, 12))
def test_both_schemes_are_the_truth_within_the_error_budget(
    dtype: torch.dtype, problem: Problem, tile: tuple[int, int], rows: int
) -> None:
    problem = problem.to(dtype)
    assume(is_clear_of_kinks(problem))
    truth = from_logits(problem)
    with small_pieces(tile):
        for answer in both(problem, rows):
            assert_in_budget(problem, answer, truth)


@pytest.mark.parametrize(
    "objective",
    [pytest.param(x, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, x in PRESETS.items()],
)
@at_most(8)
@given(data=st.data(), tile=TILES, rows=st.integers(1, 12))
def test_every_preset(objective: Objective, data: st.DataObject, tile: tuple[int, int], rows: int) -> None:
    problem = data.draw(problems(objectives=(objective,))).to(torch.float64)
    assume(is_clear_of_kinks(problem, 1e-8))
    with small_pieces(tile):
        for answer in both(problem, rows):
            assert_in_budget(problem, answer, from_logits(problem))


@pytest.mark.slow
@pytest.mark.parametrize("others", ["a part", "nothing"])
def test_the_draws_are_not_vacuous(others: str) -> None:
    """In a drawn problem all is kept of some chunks, a part or nothing of others; some sequences are clipped, some are not."""

    def telling(problem: Problem) -> bool:
        if problem.options.get("soft_cap") or problem.options.get("entropy_bonus") or problem.options.get("kl"):
            return False
        if problem.options.get("on_policy"):
            return False
        with small_pieces((3, 4)), shares_seen() as kept:
            loss = problem.loss(budget_bytes=budget(problem, 3 if others == "a part" else 1))
        mixed = 1 in kept and any(0 < share < 1 if others == "a part" else share == 0 for share in kept)
        return mixed and bool(loss.clipped.any()) and bool((loss.logp_grad != 0).any())

    find(problems(), telling, settings=settings(max_examples=3000, database=None, derandomize=True, phases=[Phase.generate]))


def test_tokens_without_a_weight_in_a_sequence_of_which_a_part_is_kept() -> None:
    """Every third token has no advantage: the others move up in the buffer, and keep their own scales and maxima."""
    weights = (torch.arange(9)[None] % 3 != 0).to(torch.float64)
    problem = make(lengths=(9,), vocabulary=23, objective=GRPO, advantage=PerToken(weights))
    with small_pieces((3, 4)), shares_seen() as kept:
        answer = ours(problem, budget_bytes=budget(problem, 5))
    assert 0 < kept[0] < 1
    assert_in_budget(problem, answer, from_logits(problem))


@pytest.mark.parametrize("what", ["value", "logp", "weight", "hidden", "lm_head", "bias"])
def test_a_wrong_answer_would_be_seen(what: str) -> None:
    """The guard of the budget: a relative error of 1e-3 in any part of the answer is over it, even in float32."""
    problem = make().to(torch.float32)
    truth, answer = from_logits(problem), ours(problem, return_logp=True)
    assert_in_budget(problem, answer, truth)
    if what in answer.gradients:
        wrong = answer._replace(gradients={**answer.gradients, what: answer.gradients[what] * 1.001})
    else:
        wrong = answer._replace(**{what: getattr(answer, what) * 1.001})
    with pytest.raises(AssertionError):
        assert_in_budget(problem, wrong, truth)


@pytest.mark.parametrize("rows", [0, 1, 100])
@pytest.mark.parametrize("lengths", [(), (0,), (0, 0, 0), (1,), (1, 1, 1, 1), (0, 9, 0)], ids=str)
@by_dtype
def test_edges(dtype: torch.dtype, lengths: tuple[int, ...], rows: int) -> None:
    """No sequence, no token, one token, one token per sequence, one sequence that is longer than the buffer."""
    problem = make(lengths=lengths).to(dtype)
    with small_pieces((4, 4)):
        answer = ours(problem, budget_bytes=rows and budget(problem, rows), return_logp=True)
    assert_in_budget(problem, answer, from_logits(problem))


@pytest.mark.parametrize("rows", [0, 100])
def test_all_rows_skipped(rows: int) -> None:
    """No sequence has an advantage: the value is 0, gradients are zeros and not None."""
    problem = make().to(torch.float32)
    problem = Problem(**{**vars(problem), "advantage": torch.zeros(5)})
    loss = problem.loss(budget_bytes=rows and budget(problem, rows))
    loss.value.backward()
    assert loss.value.item() == 0.0
    assert all(x.grad is not None and not x.grad.any() for x in problem.leaves().values())


def test_hand_computed_numbers() -> None:
    """Logits (0, log 3): log-probs log ¼ and log ¾. On policy, A = 2 and −1, lengths 1 and 2, two sequences.

    value = −(2 − 1)/2. Weights: −2/2 and 1/(2 · 2). dz = c (onehot − p): the first token has id 0, dz = (−¾, ¾); the others
    have id 1, dz = ¼ (−¼, ¼) each. ∂/∂h = Σ_v dz_v w_v with w = (0, log 3); the head's gradient is Σ dz h, h = 1.
    """
    log3 = torch.tensor(3.0, dtype=torch.float64).log()
    hidden = torch.ones(2, 2, 1, dtype=torch.float64, requires_grad=True)
    head = torch.stack([0 * log3, log3])[:, None].requires_grad_()
    tokens, mask = torch.tensor([[0, 7], [1, 1]]), torch.tensor([[True, False], [True, True]])
    advantage = torch.tensor([2.0, -1.0], dtype=torch.float64)
    for bytes_ in (0, 2**20):
        loss = gspo_torch.linear_policy_loss(
            GSPO, hidden, head, tokens, None, advantage, Padded(mask), on_policy=True, return_logp=True, budget_bytes=bytes_
        )
        d_hidden, d_head = torch.autograd.grad(loss.value, (hidden, head))
        assert loss.value.item() == -0.5
        assert loss.logp is not None
        assert loss.logp.exp().tolist() == [pytest.approx([0.25, 1.0], rel=1e-15), pytest.approx([0.75, 0.75], rel=1e-15)]
        assert d_hidden[..., 0].tolist() == [
            pytest.approx([0.75 * log3.item(), 0.0], rel=1e-15),
            pytest.approx([log3.item() / 16] * 2, rel=1e-15),
        ]
        assert d_head[:, 0].tolist() == pytest.approx([-0.875, 0.875], rel=1e-15)


@pytest.mark.parametrize("climb", [30.0, -30.0, 90.0], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_logits_may_climb_from_block_to_block(climb: float, dtype: torch.dtype) -> None:
    """Beyond what float32's exponential spans, in both directions; a bias says so, and the first tokens are ruled out by −∞."""
    bias = climb * torch.arange(24, dtype=dtype).div(4, rounding_mode="floor")  # four tokens share the mass
    bias[:5] = -torch.inf
    assert float(bias[5:].max() - bias[5:].min()) > 100  # more than exp spans, with any one shift of the first block
    problem = make(vocabulary=24).to(dtype)
    likely = torch.where(problem.layout.valid, 23 if climb > 0 else 5, problem.tokens)
    problem = replace(problem, bias=bias, tokens=likely)
    truth = from_logits(problem)
    with small_pieces((3, 4)):
        answers = both(problem, 100 * 3 * 2)
    bound = 4 * torch.finfo(dtype).eps * float(bias[5:].abs().max())
    for answer in answers:
        assert answer.logp is not None
        assert truth.logp is not None
        assert error(answer.logp, truth.logp) <= bound
        for name in ("hidden", "lm_head"):
            largest = float(truth.gradients[name].abs().max())
            assert largest > 1e-3
            assert error(answer.gradients[name], truth.gradients[name]) <= 4 * bound * largest  # a nat off is a factor of e


@pytest.mark.parametrize("tile", [(2, 3), (100, 100)], ids=str)
def test_two_pass_gradients_add_to_what_stands_there(tile: tuple[int, int]) -> None:
    """What an over-long sequence does to the sums of the aligned scheme; also where no row, or no vocabulary, is left."""
    generator = torch.Generator().manual_seed(0)
    for rows, vocabulary in ((5, 7), (0, 7), (5, 0)):
        hidden, weight = (torch.randn(n, 4, dtype=torch.float64, generator=generator) for n in (rows, vocabulary))
        tokens = torch.arange(rows) % max(1, vocabulary)
        weights = blocks.Weights(hidden[:, 0], torch.ones(rows, dtype=torch.float64), None, None)
        head = Head(weight, torch.zeros(vocabulary, dtype=torch.float64))
        fresh, sums = (Gradients(*(torch.full(x.shape, 3.0).to(x) for x in (hidden, weight, head.bias))) for _ in range(2))
        with small_pieces(tile):
            two_pass.backward(head, hidden, tokens, weights, fresh)
            two_pass.backward(head, hidden, tokens, weights, sums, add=True)
        for alone, sum_ in zip(fresh, sums, strict=True):
            torch.testing.assert_close(sum_, alone + 3.0, rtol=1e-14, atol=1e-14)
        assert rows * vocabulary == 0 or all(bool((x != 0).any()) for x in fresh)


@pytest.mark.parametrize("exp2", [False, True], ids=["exp", "exp2"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_exponentials_are_right_to_a_rounding_of_their_exponent(
    dtype: torch.dtype, exp2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From where they vanish to 1, which is exact; no token comes back that a bias of −∞ took out."""
    monkeypatch.setattr(blocks, "EXP2", exp2)
    x = torch.cat([torch.linspace(-110.0, 0.0, 10_001, dtype=dtype), torch.tensor([-torch.inf, -1e9, -1e-30], dtype=dtype)])
    truth = torch.tensor([math.exp(value) for value in x.tolist()], dtype=torch.float64)
    y = blocks.exponentiate(x.clone())
    allowed = torch.finfo(dtype).eps * (2 + x.double().clamp(min=-200.0).abs()) * truth + torch.finfo(dtype).tiny
    assert ((y.double() - truth).abs() <= allowed).all()
    assert y[10_000] == 1.0
    assert y[10_001] == 0.0
