"""Layers that gradient checkpointing runs again replay the same routes, or say that they cannot."""

from __future__ import annotations

import threading

import pytest
import torch
from gspo_torch import record_routes, replay_routes
from support.runs.moes import batch, checkpointing, gradients, log_probs, moved, recorded, routers, tiny, watched
from torch import Tensor


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_replay_the_same_routes(reentrant: bool) -> None:
    """The gradients are those of a replay without checkpointing, and not those of free routing."""
    model, data = tiny(), batch()
    _, routes = recorded(model, *data)
    moved(model).train()
    flips: list[Tensor] = []

    def replayed() -> list[Tensor]:
        model.zero_grad()
        with replay_routes(model, routes) as free:
            log_probs(model, *data).sum().backward()
        flips.append(routes.flips(free))
        return [p.grad for p in model.parameters()]

    plain = replayed()
    checkpointing(model, reentrant)
    with watched(model) as calls:
        checkpointed = replayed()
    assert len(calls) == 2 * len(routers(model))  # forward, and again in backward
    for a, b in zip(checkpointed, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert torch.equal(*flips)
    assert (flips[0] > 0).all()
    model.eval()
    free = gradients(model, log_probs(model, *data).sum())
    assert any(not torch.allclose(a, b, rtol=1e-2, atol=1e-4) for a, b in zip(free, plain, strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
def test_backward_may_run_the_layers_in_another_thread(reentrant: bool) -> None:
    """As autograd does for CUDA: a router is under watch wherever it is called."""
    model, data = tiny(), batch()
    _, routes = recorded(model, *data)
    moved(model).train()
    checkpointing(model, reentrant)
    results = []
    for threaded in (False, True):
        model.zero_grad()
        with replay_routes(model, routes):
            loss = log_probs(model, *data).sum()
            if threaded:
                thread = threading.Thread(target=loss.backward)
                thread.start()
                thread.join()
            else:
                loss.backward()
        results.append([p.grad for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_pass_that_is_run_again_is_recorded_once(reentrant: bool) -> None:
    model, data = tiny().train(), batch()
    _, expected = recorded(model, *data)
    checkpointing(model, reentrant)
    with record_routes(model) as routes:
        log_probs(model, *data).sum().backward()
    assert torch.equal(routes.experts, expected.experts)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the reentrant kind, under no_grad
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_backward_outside_of_the_block_is_refused_under_checkpointing(reentrant: bool) -> None:
    """It would route freely, and silently; without checkpointing it needs no router, and is right."""
    model, data = tiny().train(), batch()
    _, routes = recorded(model, *data)
    with replay_routes(model, routes):
        loss = log_probs(model, *data).sum()
    loss.backward()
    checkpointing(model, reentrant)
    with (
        pytest.raises(RuntimeError, match=r"^replay_routes: .* of 1 forward\(s\) again.*backward inside"),
        replay_routes(model, routes),
    ):
        log_probs(model, *data)
    with replay_routes(model, routes), torch.no_grad():
        log_probs(model, *data)
