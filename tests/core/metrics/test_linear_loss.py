"""Metrics of a loss on hidden states are those of the policy loss at its log-probs, whatever was skipped or added."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gspo_jax
import gspo_torch
import numpy as np
import pytest
import torch
from hypothesis import given
from support.draws import at_most
from support.family import MEMBERS, Member
from support.jax_programs.linear_cases import arguments, loss_of, precision
from support.lm_head.agreement import is_clear_of_kinks
from support.lm_head.cases import Problem, from_logits, make, problems, with_kl

from gspo_core import batch_metrics, policy_loss, summary
from gspo_core.kl import K3
from gspo_core.metrics import Metrics
from gspo_core.objectives import LinearLoss

OBJECTIVES = tuple(
    member.objective for member in MEMBERS if member.name in ("GSPO", "GSPO_TOKEN", "GRPO", "CISPO", "DEEPSEEK_V3_2")
)
TERMS = ("kl", "entropy_bonus")


def metrics_of(problem: Problem, loss: Any, logp: Any) -> Metrics:
    """Beside the problem's own batch."""
    return batch_metrics(problem.objective, loss, logp, problem.old_logp, problem.advantage, problem.layout)


def without_terms(problem: Problem) -> Problem:
    """The policy loss alone."""
    return replace(problem, options={k: v for k, v in problem.options.items() if k not in TERMS})


def options_of_policy(problem: Problem) -> dict[str, Any]:
    """Those options that a policy loss has."""
    return {k: v for k, v in problem.options.items() if k in ("denominator", "on_policy")}


def assert_same(found: Metrics, expected: Metrics) -> None:
    """Bit by bit."""
    for mine, theirs in zip(found, expected, strict=True):
        assert np.array_equal(np.asarray(mine), np.asarray(theirs))


@at_most(40)
@given(problem=problems(OBJECTIVES))
def test_metrics_of_a_linear_loss_are_those_of_the_policy_loss_in_torch(problem: Problem) -> None:
    """With KL terms and entropy bonuses, which give clipped tokens a gradient that no clip range took away."""
    loss = problem.loss(return_logp=True)
    rest = (problem.old_logp, problem.advantage, problem.layout)
    alone = gspo_torch.policy_loss(problem.objective, loss.logp, *rest, **options_of_policy(problem))
    assert_same(metrics_of(problem, loss, loss.logp), metrics_of(problem, alone, loss.logp))


def in_one_shape(member: Member) -> Problem:
    """In JAX every operation is compiled at every shape: the objectives share one, their options go by turns."""
    options: dict[str, Any] = [{}, {"denominator": 5.0}, {"on_policy": True}][MEMBERS.index(member) % 3]
    return make(seed=3, lengths=(3, 5, 2, 4, 1, 6), drift=0.5, objective=member.objective, options=options)


@pytest.mark.slow
@pytest.mark.parametrize("member", [m for m in MEMBERS if m.objective in OBJECTIVES], ids=lambda member: member.name)
def test_metrics_of_a_linear_loss_are_those_of_the_policy_loss_in_jax(member: Member) -> None:
    problem = in_one_shape(member)
    with precision(problem):
        parameters, rest = arguments(problem)
        loss = loss_of(problem, parameters, rest, return_logp=True)
        assert isinstance(loss, LinearLoss)
        batch = (rest["old_logp"], rest["advantage"], rest["layout"])
        alone = gspo_jax.policy_loss(problem.objective, loss.logp, *batch, **options_of_policy(problem))
        found, expected = (batch_metrics(problem.objective, x, loss.logp, *batch) for x in (loss, alone))
    assert_same(found, expected)


@at_most(25)
@given(problem=problems(OBJECTIVES, terms=False))
def test_metrics_are_those_of_the_log_softmax_of_full_logits(problem: Problem) -> None:
    """In float64, from log-probs that share no code with the head."""
    if not is_clear_of_kinks(problem):
        return
    loss, truth = problem.loss(return_logp=True), from_logits(problem)
    rest = (problem.old_logp, problem.advantage, problem.layout)
    alone = policy_loss(problem.objective, truth.logp, *rest, **options_of_policy(problem))
    found = summary(metrics_of(problem, loss, loss.logp))
    expected = summary(metrics_of(problem, alone, truth.logp))
    inexact = ("_q", "design_effect", "_std", "_max", "_min")
    names = [name for name in expected if not any(part in name for part in inexact)]
    assert {name: found[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=1e-9, abs=1e-11)


def test_a_clipped_sequence_is_counted_although_a_kl_term_moves_it() -> None:
    """Its weight in the whole loss is not zero; in the policy loss it is."""
    problem = make(lengths=(3, 4), drift=0.0, advantage=torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert problem.old_logp is not None
    problem = with_kl(replace(problem, old_logp=problem.old_logp - 1.0), K3())
    loss = problem.loss(return_logp=True)
    numbers = summary(metrics_of(problem, loss, loss.logp))
    assert (numbers["clip_active"], numbers["clip_high"]) == (0.5, 0.5)
    assert bool((loss.logp_grad[0, :3] != 0).all()), "the KL term moves the clipped tokens"
    assert numbers["loss"] == pytest.approx(without_terms(problem).loss().value.item())


def test_log_probs_that_were_skipped_are_not_measured_by_mistake() -> None:
    """Without return_logp the loss has no log-probs, and metrics ask for them instead of taking its log ratios of 0."""
    problem = make(lengths=(3, 4), advantage=torch.tensor([0.0, 1.0], dtype=torch.float64))
    skipped = problem.loss()
    assert skipped.log_ratio[0] == 0
    with pytest.raises(TypeError, match=r"logp: expected an array, got None; pass return_logp=True to linear_policy_loss"):
        metrics_of(problem, skipped, skipped.logp)
    measured = problem.loss(return_logp=True)
    assert measured.log_ratio[0] != 0
    # Log-probs from elsewhere are as good: nothing is then taken from the loss about sequences without an advantage.
    assert_same(metrics_of(problem, skipped, measured.logp), metrics_of(problem, measured, measured.logp))


def test_the_problems_have_clipped_and_skipped_sequences() -> None:
    """Else the properties above would hold for nothing."""
    problem = make(seed=3, lengths=(3, 5, 2, 4, 1, 6), drift=0.5)
    loss = problem.loss(return_logp=True)
    numbers = summary(metrics_of(problem, loss, loss.logp))
    assert numbers["clip_active"] > 0
    assert numbers["zero_advantage"] > 0
