"""linear_policy_loss of a weighted layout is the loss, on full logits, of a batch in which rows are repeated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.draws import at_most
from support.lm_head.agreement import is_clear_of_kinks
from support.lm_head.cases import Answer, Problem, from_logits, make, ours, small_pieces, with_kl

from gspo_core import GSPO, GSPO_TOKEN, Padded, TokenKL
from gspo_core.kl import K3, SequenceK2
from gspo_core.layouts import Weighted
from gspo_core.objectives import DAPO

LENGTHS = (3, 5, 0, 1, 4)
OBJECTIVES = [GSPO.with_clip(0.03, 0.04), GSPO_TOKEN.with_clip(0.03, 0.04), DAPO]


def repeated(problem: Problem, rows: torch.Tensor) -> Problem:
    """The padded problem with these rows, as leaves of its own."""
    options, kl = dict(problem.options), problem.options.get("kl")
    if kl is not None:
        options["kl"] = replace(kl, ref_logp=kl.ref_logp[rows])
    return replace(
        problem,
        hidden=problem.hidden.detach()[rows].requires_grad_(),
        tokens=problem.tokens[rows],
        old_logp=None if problem.old_logp is None else problem.old_logp[rows],
        advantage=problem.advantage[rows] if isinstance(problem.advantage, torch.Tensor) else problem.advantage,
        layout=Padded(problem.layout.valid[rows]),
        options=options,
    )


def gathered(answer: Answer, rows: torch.Tensor, many: torch.Tensor) -> Answer:
    """What the copies' answer says of the rows themselves: copies' gradients are added up."""

    def added(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(many), *x.shape[1:], dtype=x.dtype).index_add(0, rows, x)

    gradients = {name: added(x) if name == "hidden" else x for name, x in answer.gradients.items()}
    return Answer(answer.value, None, added(answer.weight), gradients)


@pytest.mark.parametrize("terms", ["none", "KL and bonus", "KL of sequences"])
@at_most(8)
@given(
    seed=st.integers(0, 2**16),
    copies=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    rows=st.sampled_from([0, 2, 50]),
    objective=st.sampled_from(OBJECTIVES),
)
def test_it_is_the_loss_of_copies(seed: int, copies: list[int], rows: int, objective: Any, terms: str) -> None:
    problem, many = make(seed, LENGTHS, objective=objective), torch.tensor(copies)
    assume(sum(copies[i] * LENGTHS[i] for i in range(5)) > 0 and (objective is not DAPO or "sequences" not in terms))
    if terms != "none":
        problem = with_kl(problem, SequenceK2() if "sequences" in terms else [TokenKL(), K3()][seed % 2])
    if "bonus" in terms:
        problem = replace(problem, options={**problem.options, "entropy_bonus": 0.2})
    again = torch.repeat_interleave(torch.arange(5), many)
    copied = repeated(problem, again)
    assume(is_clear_of_kinks(copied, 1e-8))
    weighted = replace(problem, layout=Weighted(problem.layout, many))
    with small_pieces((3, 4)):
        answer = ours(weighted, budget_bytes=rows * len(problem.lm_head) * 8)
    expected = gathered(from_logits(copied), again, many)
    pairs = [(answer.value, expected.value), (answer.weight, expected.weight)]
    pairs += [(answer.gradients[name], expected.gradients[name]) for name in expected.gradients]
    for mine, theirs in pairs:
        assert (mine - theirs).abs().max() <= 1e-11 * max(1.0, float(theirs.abs().max()))
    assert expected.weight.abs().max() > 0 or not problem.advantage.any()
    assert not answer.gradients["hidden"][many == 0].any()
