"""What has no gradient is not computed: sequences without an advantage never reach forward, clipped ones never backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gspo_torch
import pytest
import torch
from gspo_torch.lm_head import blocks, exponentials
from support.lm_head.agreement import error
from support.lm_head.cases import Problem, from_logits, make, ours, small_pieces, with_kl
from torch import Tensor

from gspo_core import GRPO, GSPO_TOKEN, PerToken
from gspo_core.kl import K3

LENGTHS = (3, 5, 2, 4, 1)
ADVANTAGE = torch.tensor([1.0, 0.0, -1.0, 0.0, 2.0], dtype=torch.float64)
SKIPPED = torch.tensor([1, 3])
BUDGETS = pytest.mark.parametrize("bytes_", [0, 2**20], ids=["two-pass", "aligned"])


@contextmanager
def rows_seen() -> Iterator[dict[str, list[Tensor]]]:
    """The rows that go into tiles of logits and of gradients, as they come."""
    seen: dict[str, list[Tensor]] = {"forward": [], "backward": []}
    scored, differentiated = blocks.logits, blocks.dlogits
    exponentiated, compacted = exponentials.exponentiate, exponentials.compact

    def logits(head: Any, rows: Tensor, *rest: Any) -> Tensor:
        seen["forward"].append(rows)
        return scored(head, rows, *rest)

    def dlogits(head: Any, rows: Tensor, *rest: Any) -> Tensor:
        seen["backward"].append(rows)
        before = len(seen["forward"])
        tile = differentiated(head, rows, *rest)
        del seen["forward"][before:]
        return tile

    def exponentiate(head: Any, rows: Tensor, *rest: Any) -> Any:
        seen["forward"].append(rows)
        return exponentiated(head, rows, *rest)

    def compact(tile: Tensor, c: Tensor) -> Tensor:
        seen["backward"].append(compacted(tile, c))
        return seen["backward"][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "logits", logits)
        patch.setattr(blocks, "dlogits", dlogits)
        patch.setattr(exponentials, "exponentiate", exponentiate)
        patch.setattr(exponentials, "compact", compact)
        yield seen


def count(problem: Problem, **options: Any) -> tuple[int, int]:
    """(rows in forward, rows in backward); vocabulary in one block."""
    with small_pieces((2, 10**6)), rows_seen() as seen:
        problem.loss(**options).value.backward()
    return sum(map(len, seen["forward"])), sum(map(len, seen["backward"]))


def on_policy(**more: Any) -> Problem:
    """Nothing clipped, two of five sequences without an advantage."""
    return make(lengths=LENGTHS, advantage=ADVANTAGE, options={"on_policy": True}, **more)


def clipping() -> Problem:
    """Log ratios ±1: sequence 0 rose and is good, sequence 2 fell and is bad; both are clipped. Sequence 4 is live."""
    problem = make(lengths=LENGTHS, drift=0.0, advantage=ADVANTAGE)
    assert problem.old_logp is not None
    return replace(problem, old_logp=problem.old_logp - torch.tensor([1.0, 0.0, -1.0, 0.0, 0.0], dtype=torch.float64)[:, None])


@BUDGETS
def test_sequences_without_an_advantage_are_in_neither_pass(bytes_: int) -> None:
    assert count(on_policy(), budget_bytes=bytes_) == (3 + 2 + 1, 3 + 2 + 1)


@BUDGETS
def test_clipped_sequences_are_not_in_backward(bytes_: int) -> None:
    assert clipping().loss().clipped.tolist() == [True, False, True, False, False]
    assert count(clipping(), budget_bytes=bytes_) == (3 + 2 + 1, 1)


@BUDGETS
def test_everything_is_in_forward_for_log_probs_and_in_both_for_a_kl_term(bytes_: int) -> None:
    assert count(clipping(), return_logp=True, budget_bytes=bytes_) == (15, 1)
    assert count(with_kl(clipping(), K3()), budget_bytes=bytes_) == (15, 15)
    assert count(clipping(), entropy_bonus=0.1, budget_bytes=0) == (15, 15)


@BUDGETS
def test_a_sequence_with_one_advantage_among_its_tokens_is_whole_in_forward(bytes_: int) -> None:
    """A sequence ratio needs all its tokens; backward needs the ones with a weight."""
    values = torch.zeros(5, 5, dtype=torch.float64)
    values[1, 2] = 1.0
    problem = replace(on_policy(objective=GRPO), advantage=PerToken(values))
    assert count(problem, budget_bytes=bytes_) == (5, 1)
    assert count(replace(problem, advantage=values), budget_bytes=bytes_) == (5, 1)
    spread = replace(problem, objective=GSPO_TOKEN)
    assert count(spread, budget_bytes=bytes_) == (5, 1)
    assert error(ours(spread)[2], from_logits(spread).weight) <= 1e-15


@BUDGETS
@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, 1e30, -1e30])
def test_skipped_sequences_may_hold_rubbish(bytes_: int, rubbish: float) -> None:
    """Their hidden states are read by nobody: no answer changes by a bit, and their gradient is 0."""
    clean = on_policy()
    states = clean.hidden.detach().clone()
    states[SKIPPED] = rubbish
    poisoned = replace(clean, hidden=states.requires_grad_())
    ours_, theirs = (ours(x, budget_bytes=bytes_).gradients for x in (poisoned, clean))
    assert all(torch.equal(g, theirs[name]) for name, g in ours_.items())
    assert not ours_["hidden"][SKIPPED].any()


def test_the_rubbish_would_be_seen() -> None:
    """The guard: log-probs of every token are asked for, and there it is."""
    problem = on_policy()
    states = problem.hidden.detach().clone()
    states[SKIPPED] = torch.nan
    assert torch.isnan(replace(problem, hidden=states).loss(return_logp=True).logp[SKIPPED][:, 0]).all()


@BUDGETS
@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_masked_slots_may_hold_rubbish(bytes_: int, rubbish: float) -> None:
    problem = make(lengths=LENGTHS)
    mask = problem.layout.valid
    poisoned = replace(
        problem,
        hidden=torch.where(mask[..., None], problem.hidden.detach(), rubbish).requires_grad_(),
        tokens=torch.where(mask, problem.tokens, 2**62),
        old_logp=torch.where(mask, problem.old_logp, -rubbish),
    )
    options = {"budget_bytes": bytes_, "return_logp": True}
    (value, logp, weight, gradients), clean = ours(poisoned, **options), ours(problem, **options)
    assert torch.equal(value, clean.value)
    assert torch.equal(logp, clean.logp)
    assert torch.equal(weight, clean.weight)
    assert all(torch.equal(g, clean.gradients[name]) for name, g in gradients.items())
    assert not gradients["hidden"][~mask].any()


def test_skipping_changes_no_bit_of_a_gradient() -> None:
    """Two-pass with everything in forward against two-pass without the sequences that have no advantage; float32.

    States and head are multiples of ½, so that logits are exact however a library sums them up for so many rows.
    """
    problem = clipping().to(torch.float32)
    halves = {name: ((2 * x.detach()).round() / 2).requires_grad_() for name, x in problem.leaves().items()}
    problem = replace(problem, **halves)
    more, fewer = (ours(problem, budget_bytes=0, return_logp=everything) for everything in (True, False))
    assert torch.equal(more.value, fewer.value)
    assert torch.equal(more.weight, fewer.weight)
    assert more.weight.any()
    assert all(torch.equal(g, fewer.gradients[name]) for name, g in more.gradients.items())


@BUDGETS
def test_log_probs_are_those_of_token_logp(bytes_: int) -> None:
    """Of every valid token, bit for bit in two-pass; the aligned way sums in another order. 0 in masked slots."""
    problem = clipping().to(torch.float32)
    mask = problem.layout.valid
    loss = problem.loss(return_logp=True, budget_bytes=bytes_)
    with torch.no_grad():
        logp = gspo_torch.token_logp(problem.hidden[mask], problem.lm_head, problem.tokens[mask], bias=problem.bias)
    if bytes_ == 0:
        assert torch.equal(loss.logp[mask], logp)
    assert error(loss.logp[mask], logp.double()) <= 16 * 11 * torch.finfo(torch.float32).eps
    assert not loss.logp[~mask].any()
    assert not loss.logp.requires_grad
    assert problem.loss().logp is None


@BUDGETS
def test_log_ratio_and_clipped_are_the_cores(bytes_: int) -> None:
    """Of sequences that were left out the log ratio is 0: nobody computed it."""
    problem = clipping()
    loss, whole = problem.loss(budget_bytes=bytes_), problem.loss(budget_bytes=bytes_, return_logp=True)
    assert loss.log_ratio[SKIPPED].tolist() == [0.0, 0.0]
    kept = ADVANTAGE != 0
    assert error(loss.log_ratio[kept], torch.tensor([1.0, -1.0, 0.0]).double()) <= 1e-14
    assert error(whole.log_ratio, torch.tensor([1.0, 0.0, -1.0, 0.0, 0.0]).double()) <= 1e-14
    assert loss.clipped.tolist() == whole.clipped.tolist()
    assert loss.denominator == whole.denominator == 5


@pytest.mark.parametrize("rows", [3, 4, 10**6], ids="{} rows a chunk".format)
@pytest.mark.parametrize("live", [(), (0,), (2,), (4,), (0, 2), (0, 4), (0, 2, 4)], ids=str)
def test_fresh_memory_is_never_read(live: tuple[int, ...], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever chunks have nothing to add: all but the live sequences are clipped; one is longer than some budgets."""
    empty = torch.empty

    def poisoned(*size: Any, **more: Any) -> Tensor:
        x = empty(*size, **more)
        return x.fill_(torch.nan) if x.dtype.is_floating_point else x

    advantage = torch.tensor([1.0, 1.0, -1.0, 1.0, 2.0], dtype=torch.float64)
    problem = make(lengths=LENGTHS, drift=0.0, advantage=advantage)
    assert problem.old_logp is not None
    gone = torch.tensor([i not in live for i in range(5)])
    problem = replace(problem, old_logp=problem.old_logp - (gone * advantage.sign())[:, None])
    assert problem.loss().clipped.tolist() == gone.tolist()
    expected = from_logits(problem)
    monkeypatch.setattr(torch, "empty", poisoned)
    with small_pieces((2, 3)):
        found = ours(problem, budget_bytes=rows * 8 * 11)
    for name, g in found.gradients.items():
        assert error(g, expected.gradients[name]) <= 1e-14
        assert bool(g.any()) == bool(live)
