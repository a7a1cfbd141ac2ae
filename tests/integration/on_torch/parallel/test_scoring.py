"""A loss whose tokens, or whose head, are spread over ranks is the loss of one process, and so is its gradient."""

from __future__ import annotations

from typing import Any

import gspo_torch
import pytest
import torch
from support.lm_head.processes import on_ranks
from support.spread import ranks as program
from support.spread.problems import CASES, FIT, LENGTHS, MIXING, WORLD, Case, inputs_of, model_of, plain_logp, responses
from torch import Tensor

from gspo_core import Padded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the four processes answered."""
    return on_ranks(program.main, WORLD, tmp_path_factory.mktemp("ranks"))


def within(actual: Tensor, expected: Tensor) -> None:
    """1e-12 of the largest entry, or of 1."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().amax() <= 1e-12 * max(1.0, float(expected.abs().amax()))


def on_one_process(case: Case) -> tuple[Any, Tensor, Tensor, dict[str, Tensor]]:
    """(loss, value, log-probs, gradients) from all logits of each text alone."""
    model, whole = model_of(case.family), responses(case.prompts)
    logp, layout = plain_logp(model, whole), Padded(whole.mask)
    given = inputs_of(case, logp.detach())
    count = float(len(LENGTHS))
    loss = gspo_torch.policy_loss(case.objective, logp, given.old_logp, given.advantage, layout, denominator=count)
    value = loss.value
    if given.kl is not None:
        ratio = given.kl.ref_logp - logp
        estimate = torch.where(whole.mask, ratio.exp() - 1 - ratio, 0.0).sum(-1) / whole.mask.sum(-1)  # k3
        value = value + given.kl.coefficient * estimate.sum() / count
    value.backward()
    return loss, value.detach(), logp.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_one_process(ranks: list[dict[str, Any]], name: str) -> None:
    case = CASES[name]
    _, value, _, gradients = on_one_process(case)
    data = case.mesh[0]
    firsts = {int(rank[name]["rows"][0]): rank[name]["value"] for rank in ranks}
    assert len(firsts) == data
    within(sum(firsts.values()), value)  # type: ignore[arg-type]  # tensors
    for rank in ranks:
        assert rank[name]["gradients"].keys() == gradients.keys()
        for parameter, gradient in gradients.items():
            assert gradient.abs().amax() > 1e-3, "a gradient to compare"
            within(rank[name]["gradients"][parameter], gradient)


@pytest.mark.parametrize("name", CASES)
def test_every_rank_has_the_whole_arrays_that_metrics_are_made_of(ranks: list[dict[str, Any]], name: str) -> None:
    case = CASES[name]
    loss, _, logp, _ = on_one_process(case)
    for rank in ranks:
        rows = rank[name]["rows"]
        width = max(LENGTHS[row] for row in rows)
        within(rank[name]["logp"], logp[rows, :width])
        per_token = case.objective.ratio.per_token
        within(rank[name]["log_ratio"], loss.log_ratio[rows, :width] if per_token else loss.log_ratio[rows])
        clipped = loss.clipped[rows, :width] if per_token else loss.clipped[rows]
        assert torch.equal(rank[name]["clipped"], clipped)
        if not case.kl:
            within(rank[name]["logp_grad"], loss.logp_grad[rows, :width])
        assert (rank[name]["entropy"][responses().mask[rows, :width]] > 0).all()
    assert loss.clipped.any()
    assert not loss.clipped.all()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.mesh[1] > 1])
def test_no_rank_holds_all_tokens(ranks: list[dict[str, Any]], name: str) -> None:
    """Else the cases above would compare nothing."""
    data, context, _ = CASES[name].mesh
    for row in range(data):
        mine = [rank[name] for rank in ranks if int(rank[name]["rows"][0]) == row]
        counts = [rank["tokens"][0] for rank in mine]
        assert max(counts) < sum(LENGTHS[i] for i in mine[0]["rows"])
        assert len(set(counts)) > 1 or context == 2


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.mesh[1] > 1])
def test_a_mask_is_made_where_one_is_needed(ranks: list[dict[str, Any]], name: str) -> None:
    """Left out are those of layers that attend to everything, where no row of the rank's begins with padding."""
    case = CASES[name]
    layers = 1 if case.family == "qwen2" else 2
    for rank in ranks:
        prompts = {case.prompts[row] for row in rank[name]["rows"]}
        needed = len(prompts) > 1 or case.family == "mistral"
        assert rank[name]["unmasked"] == (0 if needed else layers * (2 if case.zigzag else 1))


@pytest.mark.parametrize("family", MIXING)
def test_a_model_that_mixes_tokens_otherwise_than_by_attention_is_refused_by_name(
    ranks: list[dict[str, Any]], family: str
) -> None:
    for rank in ranks:
        said = rank["refusals"][family]
        assert said.startswith("--context-parallel: ")
        assert type(model_of(family, MIXING[family])).__name__ in said


@pytest.mark.parametrize("family", FIT)
def test_a_model_that_mixes_them_by_attention_is_not(ranks: list[dict[str, Any]], family: str) -> None:
    for rank in ranks:
        assert rank["refusals"][family] == ""
