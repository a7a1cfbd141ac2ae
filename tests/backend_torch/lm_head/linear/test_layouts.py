"""linear_policy_loss in shards, with turns, with tokens left out, and in mixed dtypes is the loss on full logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.draws import at_most
from support.lm_head.agreement import assert_in_budget, error, is_clear_of_kinks
from support.lm_head.cases import Answer, Problem, from_logits, make, ours, problems, small_pieces
from support.ranks import Ranks

from gspo_core import (
    GRPO,
    GSPO,
    GSPO_TOKEN,
    Clip,
    Objective,
    Packed,
    Padded,
    PerToken,
    SequenceMean,
    Turns,
    policy_loss,
    sharded,
)
from gspo_core.layouts import Layout
from gspo_core.layouts.restricted import Restricted
from gspo_core.objectives import Turn, TurnMean, TurnToken

TURN_LEVEL = tuple(
    Objective(ratio, Clip(0.03, 0.04), mean) for ratio in (Turn(), TurnToken()) for mean in (SequenceMean(), TurnMean())
)
LARGE = 2**20
KINDS = ["plain", "turns inside", "turns outside", "restricted outside"]


def columns(problem: Problem, part: slice, layout: Layout) -> Problem:
    """A rank's columns of a padded problem, as leaves of its own."""
    options, advantage = dict(problem.options), problem.advantage
    if "kl" in options:
        options["kl"] = replace(options["kl"], ref_logp=options["kl"].ref_logp[:, part])
    return replace(
        problem,
        hidden=problem.hidden.detach()[:, part].clone().requires_grad_(),
        tokens=problem.tokens[:, part],
        old_logp=None if problem.old_logp is None else problem.old_logp[:, part],
        advantage=PerToken(advantage.values[:, part]) if isinstance(advantage, PerToken) else advantage,
        layout=layout,
        options=options,
    )


def wrapped(kind: str, mask: torch.Tensor, ids: torch.Tensor, reduce: Any) -> Layout:
    """A shard, and shards inside and outside of a layout with turns or without some tokens."""
    if kind == "turns outside":
        return Turns(sharded(Padded(mask), reduce), ids, 2)
    if kind == "restricted outside":
        return Restricted(sharded(Padded(mask), reduce), ids >= 0)
    return sharded(Turns(Padded(mask), ids, 2) if kind == "turns inside" else Padded(mask), reduce)


@at_most(25)
@given(data=st.data(), cut=st.integers(0, 6), kind=st.sampled_from(KINDS), return_logp=st.booleans())
def test_the_parts_of_shards_are_the_whole(data: st.DataObject, cut: int, kind: str, return_logp: bool) -> None:
    """Ranks without a column included. A large budget changes nothing: chunks would cut across ranks."""
    problem = data.draw(problems(objectives=(GRPO, *([GSPO, GSPO_TOKEN] if "turns" not in kind else TURN_LEVEL))))
    assume(isinstance(problem.layout, Padded))
    mask, ids = problem.layout.valid, torch.arange(problem.layout.shape[1]).expand(problem.layout.shape) % 3 % 2
    alone = wrapped(kind, mask, ids, lambda x: x)
    assume(is_clear_of_kinks(replace(problem, layout=alone), 1e-8))
    truth = from_logits(replace(problem, layout=alone))
    parts = [slice(0, cut), slice(cut, None)]
    ranks = Ranks(2)

    def one_rank(rank: int) -> Answer:
        layout = wrapped(kind, mask[:, parts[rank]], ids[:, parts[rank]], ranks.all_reduce(rank))
        return ours(columns(problem, parts[rank], layout), budget_bytes=LARGE, return_logp=return_logp)

    answers = ranks.run(one_rank)
    together = Answer(
        answers[0].value,
        torch.cat([a.logp for a in answers if a.logp is not None], 1) if return_logp else None,
        torch.cat([a.weight for a in answers], 1),
        {name: sum(a.gradients[name] for a in answers) for name in truth.gradients if name != "hidden"}
        | {"hidden": torch.cat([a.gradients["hidden"] for a in answers], 1)},
    )
    assert_in_budget(replace(problem, layout=alone), together, truth)
    assert error(answers[1].value, truth.value) == error(answers[0].value, truth.value)


@pytest.mark.parametrize("kind", ["plain", "turns outside", "restricted outside"])
@pytest.mark.parametrize("per_token", [False, True], ids=["per sequence", "per token"])
def test_a_loss_exchanges_what_the_core_exchanges(kind: str, per_token: bool) -> None:
    """The head adds no exchange of its own: the check at the door and the choice of tokens ask nobody."""
    mask, ids, ranks = torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.int64), Ranks(1)
    problem = make(lengths=(4, 4, 4), objective=GSPO_TOKEN).to(torch.float32)
    layout = wrapped(kind, mask, ids, ranks.all_reduce(0))
    ones = torch.ones(3, 4) if per_token else torch.ones(3)
    for advantage in (ones, PerToken(ones)) if per_token else (ones,):
        ranks.exchanged.clear()
        policy_loss(problem.objective, problem.old_logp, problem.old_logp, advantage, layout)
        by_the_core = list(ranks.exchanged)
        ranks.exchanged.clear()
        replace(problem, advantage=advantage, layout=layout).loss(budget_bytes=LARGE)
        assert ranks.exchanged == by_the_core
        assert len(by_the_core) >= 2


@at_most(25)
@given(data=st.data(), rows=st.sampled_from([0, 2, 50]), seed=st.integers(0, 99), per_turn=st.booleans())
def test_turn_level_objectives(data: st.DataObject, rows: int, seed: int, per_turn: bool) -> None:
    """Also with one advantage per turn, of which some are zero, and tokens that belong to no turn."""
    problem = data.draw(problems(objectives=TURN_LEVEL))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, 3, problem.layout.shape, generator=generator)
    if per_turn and not problem.objective.ratio.per_token:
        values = torch.randn(problem.layout.num_sequences, 3, generator=generator, dtype=torch.float64)
        problem = replace(problem, advantage=values * (values > 0))
    problem = replace(problem, layout=Turns(problem.layout, ids, 3))
    assume(is_clear_of_kinks(problem, 1e-8))
    with small_pieces((3, 4)):
        answer = ours(problem, budget_bytes=rows * len(problem.lm_head) * 8)
    assert_in_budget(problem, answer, from_logits(problem))


def test_turns_without_an_advantage_may_be_skipped_only_with_their_sequence() -> None:
    """T equals K here: [N, K] advantages of a turn ratio are never taken for tokens'. Sequence 1 has none in either turn."""
    problem = make(lengths=(2, 2), objective=TURN_LEVEL[0], advantage=torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double())
    problem = replace(problem, layout=Turns(problem.layout, torch.tensor([[1, 0], [0, 1]]), 2))
    loss = problem.loss()
    truth = from_logits(problem)
    assert error(loss.logp_grad, truth.weight) <= 1e-12
    assert loss.logp_grad.count_nonzero(1).tolist() == [1, 0]


def test_packed_from_cu_seqlens_with_a_mask() -> None:
    problem = make(lengths=(7,)).to(torch.float64)
    mask = torch.tensor([True, True, False, True, True, True, True])
    flat = {name: getattr(problem, name)[0] for name in ("tokens", "old_logp")}
    layout = Packed.from_cu_seqlens(torch.tensor([0, 3, 3, 6]), 7, mask)
    hidden = torch.where(layout.valid[:, None], problem.hidden.detach()[0], torch.inf).requires_grad_()
    problem = replace(problem, hidden=hidden, layout=layout, advantage=torch.tensor([1.0, torch.nan, -2.0]).double(), **flat)
    for bytes_ in (0, LARGE):
        answer = ours(problem, budget_bytes=bytes_)
        assert_in_budget(problem, answer, from_logits(problem))
        assert not answer.gradients["hidden"][[2, 6]].any()


@pytest.mark.parametrize("rows", [0, 3, 50])
@pytest.mark.parametrize(
    ("hidden", "head"),
    [
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16),
        (torch.float64, torch.float32),
        (torch.float32, torch.float64),
    ],
    ids=str,
)
def test_states_and_head_may_have_different_dtypes(hidden: torch.dtype, head: torch.dtype, rows: int) -> None:
    problem = make(lengths=(3, 5, 0, 2))
    states, weights = problem.to(hidden), problem.to(head)
    mixed = replace(problem, hidden=states.hidden, lm_head=weights.lm_head, bias=states.bias)
    with small_pieces((3, 4)):
        answer = ours(mixed, budget_bytes=rows * 11 * 8 + (11 * 6 * 8 if rows else 0))
    assert_in_budget(mixed, answer, from_logits(mixed))


@pytest.mark.parametrize("rows", [0, 3, 50])
def test_old_log_probs_in_float64_are_welcome_beside_float32_states(rows: int) -> None:
    problem = make(lengths=(3, 5, 0, 2))
    mixed = replace(problem.to(torch.float32), old_logp=problem.old_logp)
    with small_pieces((3, 4)):
        answer = ours(mixed, budget_bytes=rows * 11 * 4)
    assert_in_budget(mixed, answer, from_logits(mixed))
