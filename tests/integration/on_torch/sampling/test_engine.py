"""Engines that disagree with the trainer on purpose: what moves, what does not, and that it is gone afterwards."""

from __future__ import annotations

import pytest
import torch
from gspo_torch import record_routes, replay_routes
from support.runs.moes import batch, log_probs, moved, recorded, routers, tiny
from torch import Tensor

from integration.on_torch.sampling.engine import in_bfloat16, router_noise, take_weights


def noisy(model: torch.nn.Module, sd: float, seed: int = 3) -> Tensor:
    tokens, attention = batch()
    with torch.no_grad(), router_noise(model, sd, torch.Generator().manual_seed(seed)):
        return log_probs(model, tokens, attention)


def seen_by_routers(model: torch.nn.Module, sd: float) -> list[tuple[Tensor, Tensor]]:
    """(what the router was given, what it computed its logits from), by layer, on tokens of very different sizes."""
    seen: list[tuple[Tensor, Tensor]] = []
    sizes = torch.tensor([[0.01], [1.0], [100.0]])
    for router in routers(model):
        given = sizes * torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
        hook = router.register_forward_hook(lambda _, args, _out, given=given: seen.append((given, args[0])))
        with router_noise(model, sd, torch.Generator().manual_seed(0)):
            router(given)
        hook.remove()
    return seen


def test_routers_see_noise_in_proportion_to_each_tokens_own_size() -> None:
    for given, got in seen_by_routers(tiny(hidden_size=16), 0.5):
        rms = given.square().mean(-1).sqrt()
        spread = (got - given).square().mean(-1).sqrt()
        assert torch.allclose(spread / rms, torch.full((3,), 0.5), rtol=0.5)  # 16 numbers: their rms is within 18 % of 1


def test_noise_moves_routes_and_log_probs_and_is_gone_afterwards() -> None:
    model = tiny()
    tokens, attention = batch()
    before, routes = recorded(model, tokens, attention)
    with torch.no_grad(), record_routes(model) as other, router_noise(model, 0.5, torch.Generator().manual_seed(3)):
        disturbed = log_probs(model, tokens, attention)
    assert routes.flips(other).min() > 0.02
    assert (disturbed - before).abs().max() > 0.01
    assert torch.equal(recorded(model, tokens, attention)[0], before)


def test_the_noise_is_the_generators() -> None:
    model = tiny()
    assert torch.equal(noisy(model, 0.2), noisy(model, 0.2))
    assert not torch.equal(noisy(model, 0.2), noisy(model, 0.2, seed=4))


def test_no_noise_is_no_change() -> None:
    model = tiny()
    assert torch.equal(noisy(model, 0.0), recorded(model, *batch())[0])


def test_a_replay_keeps_the_experts_and_has_the_noise_in_the_gates() -> None:
    model = tiny()
    tokens, attention = batch()
    before, routes = recorded(model, tokens, attention)
    with replay_routes(model, routes):
        kept = noisy(model, 0.5)
    assert 0 < (kept - before).std() < (noisy(model, 0.5) - before).std()


@pytest.mark.parametrize(
    ("family", "sd", "says"), [("dense", 0.1, "model: "), ("mixtral", -0.1, "sd: "), ("mixtral", torch.inf, "sd")]
)
def test_noise_that_would_do_nothing_or_anything_is_an_error(family: str, sd: float, says: str) -> None:
    with pytest.raises(ValueError, match=says), router_noise(tiny(family), sd, torch.Generator()):
        pass


def test_the_engine_in_bfloat16_is_a_copy_without_gradient() -> None:
    model = tiny().train()
    engine = in_bfloat16(model)
    assert {p.dtype for p in engine.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not engine.training
    assert model.training
    assert not any(p.requires_grad for p in engine.parameters())
    assert all(p.requires_grad for p in model.parameters())
    gap = recorded(engine, *batch())[0] - recorded(model.eval(), *batch())[0]
    assert 1e-4 < gap.abs().max() < 0.5


def test_the_engine_knows_positions_as_exactly_as_the_model() -> None:
    """It is in bfloat16 what a checkpoint is that is loaded in bfloat16: the rotary frequencies are not rounded."""
    model = tiny()
    assert [b.dtype for b in in_bfloat16(model).buffers()] == [b.dtype for b in model.buffers()] != []


def test_an_engine_that_takes_the_weights_is_a_new_copy() -> None:
    model = tiny()
    engine = in_bfloat16(model)
    moved(model)
    stale = recorded(engine, *batch())[0]
    take_weights(engine, model)
    assert {p.dtype for p in engine.parameters()} == {torch.bfloat16}
    assert torch.equal(recorded(engine, *batch())[0], recorded(in_bfloat16(model), *batch())[0])
    assert not torch.equal(recorded(engine, *batch())[0], stale)
