"""Routing replay: the selection of an earlier pass, the gates of today's router, and nothing of it left when the block ends."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
import torch
from gspo_torch import Routes, record_routes, replay_routes
from support.runs.moes import EXPERTS, FAMILIES, TOP_K, batch, gradients, log_probs, moved, recorded, routers, tiny, watched
from torch import Tensor
from transformers import DynamicCache

MIXTURES = [name for name in FAMILIES if name != "dense"]
by_family = pytest.mark.parametrize("family", MIXTURES)


@by_family
def test_replaying_its_own_routes_is_the_identity(family: str) -> None:
    """Bitwise, in values and in gradients, so that the log ratio at unchanged weights is exactly 0."""
    model, data = tiny(family), batch()
    free = log_probs(model, *data)
    logp, routes = recorded(model, *data)
    with replay_routes(model, routes):
        again = log_probs(model, *data)
        replayed = gradients(model, again.sum())
    assert torch.equal(logp, free)
    assert torch.equal(again - logp, torch.zeros_like(logp))
    for a, b in zip(replayed, gradients(model, free.sum()), strict=True):
        assert torch.equal(a, b)


@by_family
def test_no_expert_changes_in_a_replay_after_the_weights_have(family: str) -> None:
    """And without replay some do, in every mixture layer."""
    model, (tokens, attention) = tiny(family), batch()
    _, routes = recorded(model, tokens, attention)
    _, free = recorded(moved(model), tokens, attention)
    with watched(model) as used, replay_routes(model, routes):
        log_probs(model, tokens, attention)
    there = attention.reshape(-1) > 0
    for layer, experts in enumerate(used):
        assert torch.equal(experts[there], routes.experts[layer].reshape(-1, TOP_K)[there].long())
    assert (free.flips(routes) > 0.02).all()
    assert torch.equal(routes.flips(routes), torch.zeros(len(used)))


@by_family
def test_gates_are_those_of_the_current_router(family: str) -> None:
    """Against a scalar loop over the definition g_i = e^{z_i} / Σ e^{z_j}, the sum over the chosen if gates are normalised."""
    model, data = tiny(family), batch()
    _, routes = recorded(model, *data)
    moved(model)
    outputs: list[Any] = []
    with replay_routes(model, routes):
        hooks = [r.register_forward_hook(lambda _, _args, output: outputs.append(output)) for r in routers(model)]
        log_probs(model, *data)
    for hook in hooks:
        hook.remove()
    for router, (logits, gates, experts) in zip(routers(model), outputs, strict=True):
        chosen_only = getattr(router, "norm_topk_prob", True)
        for row in range(len(logits)):
            z = [float(x) for x in logits[row].detach().double().exp()]
            chosen = [z[int(e)] for e in experts[row]]
            expected = [x / sum(chosen if chosen_only else z) for x in chosen]
            assert gates[row].tolist() == pytest.approx(expected, rel=1e-5)


@by_family
def test_tokens_without_a_route_go_freely(family: str) -> None:
    """Padding, and whatever a mask leaves out: their routes are not even looked at."""
    model, (tokens, attention) = tiny(family), batch()
    _, routes = recorded(model, tokens, attention)
    assert torch.equal(routes.routed, attention > 0)
    _, free = recorded(moved(model), tokens, attention)
    keep = (attention > 0) & (torch.arange(tokens.shape[1]) < 6)
    garbage = torch.where(keep[None, :, :, None], routes.experts, 255).to(torch.uint8)
    with watched(model) as used, replay_routes(model, Routes(garbage, keep, EXPERTS)):
        replayed = log_probs(model, tokens, attention)
    first = used[0].reshape(*tokens.shape, TOP_K)  # of the first mixture layer: what it gets does not depend on routes
    assert torch.equal(first[keep], routes.experts[0][keep].long())
    assert torch.equal(first[~keep], free.experts[0][~keep].long())
    assert replayed.isfinite().all()
    with replay_routes(model, routes.fit(torch.zeros_like(keep))):
        assert torch.equal(log_probs(model, tokens, attention), log_probs_free(model, tokens, attention))


def log_probs_free(model: Any, tokens: Tensor, attention: Tensor) -> Tensor:
    """From a copy that has no hooks."""
    copy = type(model)(model.config).eval()
    copy.load_state_dict(model.state_dict())
    return log_probs(copy, tokens, attention)


@by_family
def test_experts_outside_of_the_routes_get_no_gradient_and_the_router_gets_one(family: str) -> None:
    """Every token is sent to experts 0 and 1, whatever the router says."""
    model, (tokens, attention) = tiny(family), batch(pads=0)
    layers = len(routers(model))
    experts = torch.tensor([0, 1], dtype=torch.uint8).expand(layers, *tokens.shape, TOP_K)
    with replay_routes(model, Routes(experts, attention > 0, EXPERTS)):
        log_probs(model, tokens, attention).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if ".experts." in name:
            assert torch.equal(parameter.grad[2:], torch.zeros_like(parameter.grad[2:])), name
            assert (parameter.grad[:2] != 0).any(), name
    for router in routers(model):
        chosen, others = router.weight.grad[:2].abs().max(), router.weight.grad[2:].abs().max()
        assert chosen > 0
        normalised = getattr(router, "norm_topk_prob", True)  # or the others' logits stand in the denominator
        assert (others < 1e-4 * chosen) == normalised


@by_family
def test_routes_of_sampling_are_those_of_the_trainers_pass(family: str) -> None:
    """R3 equals R2 on the same tokens at the same weights, prompts padded on the left; only the last token has no route."""
    model, (prompts, attention) = tiny(family), batch(width=5)
    torch.manual_seed(0)
    with record_routes(model) as r3:
        ids = model.generate(input_ids=prompts, attention_mask=attention, max_new_tokens=6, do_sample=True, pad_token_id=0)
    mask = torch.cat([attention > 0, torch.ones(len(ids), 6, dtype=torch.bool)], 1)
    r3 = r3.fit(mask)
    logp, r2 = recorded(model, ids, mask.long())
    assert r3.routed.tolist() == torch.cat([mask[:, :-1], mask[:, :1] & False], 1).tolist()
    where = r3.routed
    assert torch.equal(r3.experts[:, where], r2.experts[:, where])
    with replay_routes(model, r3):
        assert torch.equal(log_probs(model, ids, mask.long()), logp)


@by_family
def test_steps_of_a_generation_may_be_recorded_one_by_one(family: str) -> None:
    """Also when a sequence leaves on the way: put together they are the routes of one pass over the whole."""
    model, (tokens, attention) = tiny(family), batch()
    _, whole = recorded(model, tokens, attention)
    cache, parts, staying = DynamicCache(), [], torch.arange(4)
    for start, stop in ((0, 5), (5, 6), (6, 9)):
        if start == 6:
            staying = torch.tensor([3, 0])
            cache.batch_select_indices(staying)
        given = attention[staying, :stop]
        with torch.no_grad(), record_routes(model) as routes:
            model(
                input_ids=tokens[staying, start:stop],
                attention_mask=given,
                position_ids=(given.cumsum(-1) - 1).clamp(min=0)[:, start:],
                past_key_values=cache,
                use_cache=True,
            )
        assert routes.routed.shape == (len(staying), stop - start)
        parts.append(routes)
    together = Routes.cat([Routes.cat(parts[:2], dim=1).rows(staying), parts[2]], dim=1)
    expected = whole.rows(staying)
    assert torch.equal(together.routed, expected.routed)
    assert torch.equal(together.experts[:, together.routed], expected.experts[:, expected.routed])


def test_parts_of_routes_make_up_the_whole() -> None:
    """Micro-batches and columns, cut out and put together again."""
    _, routes = recorded(tiny(), *batch())
    rows = [routes.rows(index) for index in torch.arange(4).split(3)]
    columns = [routes.columns(0, 4), routes.columns(4, 4), routes.columns(4, 9)]
    for again in (Routes.cat(rows), Routes.cat(columns, dim=1), Routes.cat([routes])):
        assert torch.equal(again.experts, routes.experts)
        assert torch.equal(again.routed, routes.routed)
        assert again.num_experts == EXPERTS
    assert [part.routed.shape for part in (*rows, *columns)] == [(3, 9), (1, 9), (4, 4), (4, 0), (4, 5)]
    assert not torch.equal(Routes.cat(rows[::-1]).experts, routes.experts)


@by_family
def test_a_replay_says_what_the_router_would_have_chosen(family: str) -> None:
    """At the recorded weights the same; later, in the first mixture layer, what it does choose without replay."""
    model, data = tiny(family), batch()
    _, routes = recorded(model, *data)
    with replay_routes(model, routes) as free:
        log_probs(model, *data)
    assert torch.equal(routes.flips(free), torch.zeros(len(routes.experts)))
    _, unforced = recorded(moved(model), *data)
    with replay_routes(model, routes) as free:
        log_probs(model, *data).sum().backward()
        assert free.routed.numel() == 0, "empty in the block"
    there = free.routed
    assert torch.equal(there, routes.routed)
    assert torch.equal(free.experts[0][there], unforced.experts[0][there])
    assert (routes.flips(free) > 0.02).all()


def test_a_dense_model_is_left_alone() -> None:
    model, data = tiny("dense"), batch()
    free = log_probs(model, *data)
    logp, routes = recorded(model, *data)
    with replay_routes(model, routes):
        assert torch.equal(log_probs(model, *data), free)
    assert torch.equal(logp, free)
    assert routes.experts.shape[0] == 0
    assert routes.bytes_per_token == 1


def test_dense_layers_in_between_are_not_counted() -> None:
    model, data = tiny(), batch()
    assert model.config.num_hidden_layers == 3
    assert recorded(model, *data)[1].experts.shape == (2, *data[0].shape, TOP_K)


@pytest.mark.parametrize(("experts", "dtype", "size"), [(256, torch.uint8, 1), (257, torch.int16, 2)])
def test_storage(experts: int, dtype: torch.dtype, size: int) -> None:
    """One byte per slot as long as it can number the experts: routes of expert 255, and of 256."""
    model, data = tiny(num_experts=experts), batch()
    with torch.no_grad():
        for router in routers(model):
            router.weight.zero_()
    last = torch.tensor([experts - 1, 0], dtype=dtype).expand(2, *data[0].shape, TOP_K)
    with replay_routes(model, Routes(last, data[1] > 0, experts)), watched(model) as used:
        log_probs(model, *data)
    _, routes = recorded(model, *data)
    assert int(used[0].max()) == experts - 1
    assert routes.experts.dtype == dtype
    assert routes.experts.nbytes + routes.routed.nbytes == routes.bytes_per_token * data[0].numel()
    assert routes.bytes_per_token == 2 * TOP_K * size + 1


def test_mini_batches_take_their_rows() -> None:
    model, (tokens, attention) = tiny(), batch()
    logp, routes = recorded(model, tokens, attention)
    for index in (torch.tensor([2, 0]), torch.tensor([False, True, False, True])):
        with replay_routes(model, routes.rows(index)):
            torch.testing.assert_close(log_probs(model, tokens[index], attention[index]), logp[index], rtol=1e-5, atol=1e-5)


def test_flips_count_slots_whose_expert_is_gone() -> None:
    """Order is no flip: {0, 1} to {1, 0} and to {1, 2}; the third token has no route in one of them."""
    a = Routes(torch.tensor([[[[0, 1], [0, 1], [0, 1]]]], dtype=torch.uint8), torch.ones(1, 3) > 0, 4)
    b = Routes(torch.tensor([[[[1, 0], [1, 2], [2, 3]]]], dtype=torch.uint8), torch.tensor([[True, True, False]]), 4)
    assert a.flips(b).tolist() == [0.25]
    assert b.flips(a).tolist() == [0.25]


def hooks_of(model: Any) -> int:
    """How many there are."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_nothing_stays_behind_an_exception() -> None:
    """Neither hooks nor the mark that refuses nesting; and a recording that failed stays empty."""
    model, data = tiny(), batch()
    _, routes = recorded(model, *data)
    before = hooks_of(model)
    with suppress(KeyError), replay_routes(model, routes):
        assert hooks_of(model) > before
        raise KeyError
    with suppress(KeyError), record_routes(model) as broken:
        log_probs(model, *data)
        raise KeyError
    assert broken.experts.numel() == 0
    assert hooks_of(model) == before
    logp, again = recorded(model, *data)
    assert torch.equal(again.experts, routes.experts)
    assert torch.equal(logp, log_probs(model, *data))


def test_a_forward_that_raises_is_not_recorded() -> None:
    """Its layers up to the exception are dropped, and the batch can be run again."""
    model, data = tiny(), batch()
    _, expected = recorded(model, *data)
    with torch.no_grad(), record_routes(model) as routes:
        hook = model.model.norm.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log_probs(model, *data)
        hook.remove()
        log_probs(model, *data)
    assert torch.equal(routes.experts, expected.experts)


@by_family
def test_a_decoder_or_a_wrapper_is_recorded_like_the_model(family: str) -> None:
    """The same layers, so nesting is refused across them."""
    model, data = tiny(family), batch()
    _, routes = recorded(model, *data)
    wrapper = torch.nn.ModuleDict({"policy": model})
    for whole in (model.get_decoder(), wrapper):
        with torch.no_grad(), record_routes(whole) as other:
            log_probs(model, *data)
        assert torch.equal(other.experts, routes.experts)
        with (
            replay_routes(model, routes),
            pytest.raises(RuntimeError, match=r"^record_routes: .*cannot be nested"),
            record_routes(whole),
        ):
            pass


@pytest.mark.slow
def test_the_package_does_not_import_transformers() -> None:
    code = "import sys, gspo_torch; print('transformers' in sys.modules, 'gspo_torch.routing.replay' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "True"]
