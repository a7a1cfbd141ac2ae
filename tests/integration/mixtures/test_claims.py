"""Routing replay in every causal mixture of transformers: own routes are the identity, others hold, gates have gradients."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gspo_torch import replay_routes
from gspo_torch.routing.routers import mixture_of
from gspo_torch.routing.selection import Selection
from support.repository import ROOT
from support.runs.moes import checkpointing
from torch import Tensor

from integration.mixtures.__main__ import row
from integration.mixtures.claims import log_probs, measure, moved, recorded
from integration.mixtures.tiny import families, tiny
from integration.on_torch.sampling.engine import router_noise

REFUSED = {"doge", "phimoe"}
PAGE = (ROOT / "docs/moe.md").read_text()
"""Its table is the output of `python -m integration.mixtures`."""
QUICK = {"deepseek_v3", "gpt_oss", "jetmoe", "llama4_text", "mixtral"}
"""One of each kind of router: groups of experts, gates after the choice, sorted by expert, scattered, gates before it."""
ALL = [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in families() if f not in REFUSED]


@pytest.mark.parametrize("family", ALL)
def test_a_replay_keeps_what_it_promises(family: str) -> None:
    """`right` has the bounds; the numbers that it is about are in the message."""
    found = measure(family)
    assert found.right, found
    assert row(family, ", ".join(found.routers), "yes") in PAGE


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", sorted(QUICK))
def test_layers_that_are_run_again_in_backward_take_the_same_routes(family: str, reentrant: bool) -> None:
    """In training mode; without checkpointing and with it the gradients are the same up to the order of sums."""
    model = tiny(family)
    routes = recorded(model)
    moved(model).train()

    def replayed() -> list[Tensor]:
        model.zero_grad()
        with replay_routes(model, routes):
            log_probs(model).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain, calls = replayed(), []
    checkpointing(model, reentrant)
    for router in mixture_of(model).routers:
        router.register_forward_pre_hook(lambda *_: calls.append(1))
    for a, b in zip(replayed(), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
    assert len(calls) == 2 * len(mixture_of(model).routers)


@pytest.mark.parametrize("family", ["dbrx", *sorted(QUICK)])
def test_noise_goes_to_what_the_routers_read(family: str) -> None:
    """It moves experts, and not what they are given: a replay under noise sees it in the gate values alone."""
    model = tiny(family)
    routes, free = recorded(model), log_probs(model)
    with torch.no_grad(), router_noise(model, 0.3, torch.Generator().manual_seed(0)):
        assert (recorded(model).flips(routes) > 0.02).any()
    inputs: list[Tensor] = []
    for module in model.modules():
        if type(module).__name__.endswith("Experts"):
            module.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    for noise in (0.0, 0.3):
        with torch.no_grad(), router_noise(model, noise, torch.Generator().manual_seed(0)), replay_routes(model, routes):
            assert torch.equal(log_probs(model), free) == (noise == 0)
    first = inputs[0], inputs[len(inputs) // 2]
    assert torch.equal(*first) == (family != "llama4_text"), "whose experts' inputs are scaled by the gates"


def test_a_group_that_is_not_chosen_today_keeps_its_scores() -> None:
    """DeepSeek-V2 takes gate values from scores that are 0 outside of the groups it chooses."""
    model = tiny("deepseek_v2", topk_method="group_limited_greedy")
    mixture, forced = mixture_of(model), torch.tensor([0, 7]).expand(50, 2)
    router, hidden = mixture.routers[0], torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    assert mixture.num_experts == 8
    chosen = router(hidden)[2] // 2
    assert (chosen.ne(0).all(1) | chosen.ne(3).all(1)).any(), "both groups are always chosen"
    with Selection(2, 8, True, lambda _: forced):
        logits, weights, experts = router(hidden)
    assert torch.equal(experts, forced)
    torch.testing.assert_close(weights, logits.softmax(-1)[:, [0, 7]] * router.routed_scaling_factor)
    found = measure("deepseek_v2", topk_method="group_limited_greedy")
    assert found.right, found


def test_one_group_of_all_experts_is_no_choice() -> None:
    """Its two best are looked up as the top 2 of 8, just as the choice itself."""
    found = measure("deepseek_v3", n_group=1, topk_group=1)
    assert found.right, found


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(REFUSED))
def test_the_others_are_refused(family: str) -> None:
    with pytest.raises(TypeError, match=r"^model: expected .*(DogeForCausalLM|PhimoeTopKRouter)") as error:
        measure(family)
    assert row(family, "", f"refused: {error.value}") in PAGE


def test_at_least_25_families_were_measured() -> None:
    assert len(ALL) >= 50
    assert set(families()) > REFUSED
    assert set(families()) > QUICK
    assert re.findall(r"^\| (\w+) \| .* \| (?:yes|refused.*) \|$", PAGE, re.M) == families(), (
        "the table of docs/moe.md is of others"
    )


def half_the_gradient(selecting: Callable[..., Any]) -> Callable[..., Any]:
    """A replay whose gate values are right and their gradient is not."""

    def wrong(self: Selection, *args: Any) -> Any:
        out = selecting(self, *args)
        if not isinstance(out, torch.return_types.topk):  # type: ignore[attr-defined]
            return out
        values: Tensor = out[0]
        return torch.return_types.topk((0.5 * values + 0.5 * values.detach(), out[1]))  # type: ignore[attr-defined]

    return wrong


def unmoved(choose: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], None]:
    """A replay that asks for the recorded experts and takes the router's own."""

    def wrong(experts: Tensor) -> None:
        choose(experts)

    return wrong


@pytest.mark.parametrize(("broken", "what"), [("gates", "gradient"), ("experts", "kept")])
def test_what_is_broken_would_be_found(broken: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "gates":
        monkeypatch.setattr(Selection, "__torch_function__", half_the_gradient(Selection.__torch_function__))
    else:
        start = Selection.__init__
        monkeypatch.setattr(Selection, "__init__", lambda s, k, e, g, choose: start(s, k, e, g, unmoved(choose)))
    found = measure("mixtral")
    assert not found.right
    assert (found.gradient > 1e-3) if what == "gradient" else not found.kept
