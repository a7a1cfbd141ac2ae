"""Which modules of a model choose experts, and that a mixture in which none are found is never taken for a dense model."""

from __future__ import annotations

import pytest
import torch
from gspo_torch import record_routes, replay_routes
from gspo_torch.routing.routers import mixture_of
from support.runs.moes import batch, log_probs, recorded, routers, tiny
from support.runs.toy_mixtures import TOKENS, CDMoE, Gate, Layer, Model, SomeRouter, Wrapper
from torch import nn


def test_any_module_that_chooses_beside_experts_is_a_router() -> None:
    """Of a class that nobody has seen, also within an adapter's wrapper; a replay of its own routes is the identity."""
    torch.manual_seed(0)
    model = Model(Layer(Gate()), nn.Linear(3, 3), Layer(Wrapper(Gate())))
    assert [type(r).__name__ for r in mixture_of(model).routers] == ["Gate", "Gate"]
    with torch.no_grad(), record_routes(model) as routes:
        free = model(TOKENS)[0]
    assert routes.experts.shape == (2, 1, 4, 2)
    with replay_routes(model, routes):
        assert torch.equal(model(TOKENS)[0], free)
    with torch.no_grad():
        model.layers[0].gate.weight.neg_()
    with replay_routes(model, routes) as other:
        model(TOKENS)
    assert routes.flips(other)[0] > 0.02


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Model(CDMoE(3, 3)), "got CDMoE; its routes cannot be recorded"),
        (Model(SomeRouter(3, 3)), "got SomeRouter"),
        (Model(nn.Linear(3, 3), num_experts=8), "got Model"),
        (Model(nn.Linear(3, 3), num_local_experts=[8, 4]), "got Model"),
        (Model(Model(nn.Linear(3, 3), n_routed_experts=8)), "got Model"),
        (Model(Layer(nn.Linear(3, 4))), r"expected one router that calls topk in Layer \(Linear, ToyExperts\), got none"),
        (Model(Layer(Gate()), Layer(Gate(top_k=1))), "expected as many experts per token in every layer, got 1 and 2"),
    ],
)
def test_a_mixture_whose_routers_are_not_found_is_refused(model: nn.Module, sentence: str) -> None:
    with pytest.raises(TypeError, match=rf"^model: .*{sentence}"):
        mixture_of(model)


def test_a_config_of_one_expert_or_none_is_that_of_a_dense_model() -> None:
    for number in (1, 0, None, [1, 1]):
        assert mixture_of(Model(nn.Linear(3, 3), num_experts=number)).routers == ()


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (Layer(Gate(times=2)), "expected Gate to choose once, 2 of 4 experts by topk over the last axis, got 2 such choices"),
        (Layer(Gate(), twice=True), "expected each router to run once in a forward, got Gate of mixture layer 0 again"),
        (Layer(Gate(), skip=True), "expected every router to run in a forward, got none of Gate of mixture layer 0"),
    ],
)
def test_a_router_that_does_not_choose_once_is_an_error(layer: Layer, sentence: str) -> None:
    model = Model(layer)
    with pytest.raises(RuntimeError, match=f"^model: {sentence}"), record_routes(model):
        model(TOKENS)


def test_a_forward_that_someone_else_has_replaced_is_there_again() -> None:
    """As accelerate replaces it; and none is left behind where there was none."""
    model = tiny()
    first, second = routers(model)
    mine = first.forward
    first.forward = mine
    recorded(model, *batch())
    assert vars(first)["forward"] is mine
    assert "forward" not in vars(second)
    log_probs(model, *batch())
