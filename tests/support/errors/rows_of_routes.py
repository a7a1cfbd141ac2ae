"""Wrong calls of record_routes and replay_routes, one row per error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gspo_torch import Routes, record_routes, replay_routes
from support.errors.places import Row
from support.errors.rows import T, V
from support.runs.moes import EXPERTS, batch, log_probs, tiny
from support.runs.toy_mixtures import TOKENS, Gate, Layer, Model
from torch import Tensor, nn

MASK = torch.ones(4, 9, dtype=torch.bool)


class DeepseekV3TopkRouter(nn.Linear):
    """Of a class that is not known."""


class SizelessGate(nn.Module):
    """Does not say how many experts there are."""

    def forward(self, scores: Tensor) -> Tensor:
        """The best."""
        return scores.topk(1).indices


class GptOssExperts(nn.Linear):
    """Experts without a router."""


def routes(layers: int = 2, rows: int = 4, width: int = 9, experts: tuple[int, ...] = (0, 1), of: int = EXPERTS) -> Routes:
    """Each token to the same experts."""
    slots = torch.tensor(experts, dtype=torch.int16).expand(layers, rows, width, len(experts))
    return Routes(slots, torch.ones(rows, width, dtype=torch.bool), of)


def small() -> Routes:
    """The same in a byte per slot."""
    return Routes(routes().experts.to(torch.uint8), MASK, EXPERTS)


def cat(other: Routes, dim: int = 0) -> Routes:
    """After the usual ones."""
    return Routes.cat([routes(), other], dim)


def replay(given: Any, model: Any = None, data: tuple[Tensor, Tensor] | None = None) -> Callable[[], Any]:
    """A forward of the tiny Qwen3-MoE with these routes."""

    def call() -> None:
        whole = tiny() if model is None else model
        with replay_routes(whole, given):
            log_probs(whole, *(data or batch()))

    return call


def record(model: Any) -> None:
    """One pass."""
    with record_routes(model):
        log_probs(model, *batch())


def record_toy(*layers: nn.Module) -> Callable[[], Any]:
    """One pass of a toy."""

    def call() -> None:
        model = Model(*layers)
        with record_routes(model):
            model(TOKENS)

    return call


def nested() -> None:
    """A replay inside of a recording."""
    model = tiny()
    with record_routes(model), replay_routes(model, routes()):
        pass


def two_batches() -> None:
    """In one block."""
    model = tiny()
    with record_routes(model):
        log_probs(model, *batch())
        log_probs(model, *batch())


def backward_outside() -> None:
    """Of a replay with gradient checkpointing."""
    model = tiny().train()
    # Before transformers 5.23 it had another name, which now warns.
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    replay(routes(), model)()


ROUTES: list[Row] = [
    Row(T, ("model: expected a torch module", "got str"), lambda: record("Qwen3-30B-A3B")),
    Row(
        T,
        ("model: expected a dense model, or a mixture whose layers have experts", "got DeepseekV3TopkRouter"),
        lambda: record(nn.Sequential(DeepseekV3TopkRouter(2, 2))),
    ),
    Row(
        T,
        ("model: expected one router that calls topk in Sequential (GptOssExperts)", "got none"),
        lambda: record(nn.Sequential(GptOssExperts(2, 2))),
    ),
    Row(
        T,
        ("model: expected routers with one of ('top_k'", "got SizelessGate"),
        lambda: record(nn.Sequential(SizelessGate(), GptOssExperts(2, 2))),
    ),
    Row(
        T,
        ("model: expected as many experts per token in every layer", "got 1 and 2"),
        record_toy(Layer(Gate()), Layer(Gate(top_k=1))),
    ),
    Row(RuntimeError, ("model: expected Gate to choose once, 2 of 4 experts", "got 2 such"), record_toy(Layer(Gate(times=2)))),
    Row(RuntimeError, ("model: expected each router to run once", "got Gate"), record_toy(Layer(Gate(), twice=True))),
    Row(RuntimeError, ("model: expected every router to run", "none of Gate"), record_toy(Layer(Gate(), skip=True))),
    Row(T, ("routes: expected Routes, as record_routes gives them", "got Tensor"), replay(routes().experts)),
    Row(T, ("experts: expected uint8 or int16", "got torch.int64"), lambda: Routes(routes().experts.long(), MASK, EXPERTS)),
    Row(T, ("routed: expected a boolean tensor", "got torch.int64"), lambda: Routes(routes().experts, MASK.long(), EXPERTS)),
    Row(V, ("experts: expected shape [layers, N, S, K]", "got [4, 9, 2]"), lambda: Routes(routes().experts[0], MASK, EXPERTS)),
    Row(V, ("routed: expected [N, S] = [4, 9]", "got [3, 9]"), lambda: Routes(routes().experts, MASK[1:], EXPERTS)),
    Row(T, ("mask: expected a boolean tensor", "got torch.int64"), lambda: routes().fit(MASK.long())),
    Row(V, ("mask: expected shape [4, T] with T of at least 9", "got [4, 8]"), lambda: routes().fit(MASK[:, 1:])),
    Row(V, ("other: expected routes of [2, 4, 9, 2]", "got [3, 4, 9, 2]"), lambda: routes().flips(routes(3))),
    Row(V, ("start, stop: expected 0 ≤ start ≤ stop ≤ 9", "got 3 and 10"), lambda: routes().columns(3, 10)),
    Row(V, ("start, stop: expected 0 ≤ start ≤ stop ≤ 9", "got 3 and 2"), lambda: routes().columns(3, 2)),
    Row(V, ("start: expected a whole number of at least 0", "got -1"), lambda: routes().columns(-1, 2)),
    Row(V, ("stop: expected a whole number of at least 0", "got 2.0"), lambda: routes().columns(1, 2.0)),
    Row(V, ("dim: expected a whole number of at least 0 and at most 1", "got 2"), lambda: Routes.cat([routes()], dim=2)),
    Row(T, ("parts: expected a list of Routes", "got Routes"), lambda: Routes.cat(routes())),
    Row(T, ("experts: expected a torch tensor", "got ndarray"), lambda: Routes(routes().experts.numpy(), MASK, EXPERTS)),
    Row(T, ("routed: expected a torch tensor", "got list"), lambda: Routes(routes().experts, [[True]], EXPERTS)),
    Row(V, ("num_experts: expected a whole number of at least 0", "got None"), lambda: Routes(routes().experts, MASK, None)),
    Row(T, ("index: expected a torch tensor", "got list"), lambda: routes().rows([0])),
    Row(T, ("index: expected integers or booleans", "got torch.float32"), lambda: routes().rows(torch.zeros(1))),
    Row(V, ("index: expected shape [n] of integers or [4] of booleans", "got [3]"), lambda: routes().rows(MASK[:3, 0])),
    Row(V, ("index: expected numbers of 4 sequences", "got 0 to 4"), lambda: routes().rows(torch.tensor([0, 4]))),
    Row(T, ("mask: expected a torch tensor", "got list"), lambda: routes().fit([[True]])),
    Row(T, ("other: expected Routes", "got int"), lambda: routes().flips(0)),
    Row(V, ("parts: expected at least one", "got none"), lambda: Routes.cat([])),
    Row(T, ("parts: expected Routes, as record_routes gives them", "got Tensor"), lambda: Routes.cat([MASK])),
    Row(T, ("parts: expected torch.int16 as the first", "got torch.uint8"), lambda: Routes.cat([routes(), small()])),
    Row(V, ("parts: expected [layers, S, K, E] = [2, 9, 2, 8]", "got [2, 8, 2, 8]"), lambda: cat(routes(width=8))),
    Row(V, ("parts: expected [layers, N, K, E] = [2, 4, 2, 8]", "got [2, 3, 2, 8]"), lambda: cat(routes(rows=3), dim=1)),
    Row(V, ("parts: expected [layers, S, K, E] = [2, 9, 2, 8]", "got [3, 9, 2, 8]"), lambda: cat(routes(3))),
    Row(V, ("parts: expected [layers, S, K, E] = [2, 9, 2, 8]", "got [2, 9, 2, 16]"), lambda: cat(routes(of=16))),
    Row(V, ("routes: expected those of a model with 2 mixture layers and 2 of 8", "got 3 layers"), replay(routes(3))),
    Row(V, ("routes: expected those of a model with 2 ", "got 2 layers and 1 of 8"), replay(routes(experts=(1,)))),
    Row(V, ("routes: expected those of a model with 2 ", "got 2 layers and 2 of 16"), replay(routes(of=16))),
    Row(V, ("routes: expected those of a model with 0 ", "got 2 layers"), replay(routes(), tiny("dense"))),
    Row(V, ("routes: expected those of a model with 2 ", "got 0 layers"), replay(routes(0))),
    Row(V, ("routes: expected 2 different experts in [0, 8)",), replay(routes(experts=(0, 8)))),
    Row(V, ("routes: expected 2 different experts in [0, 8)",), replay(routes(experts=(-1, 0)))),
    Row(V, ("routes: expected 2 different experts in [0, 8)",), replay(routes(experts=(3, 3)))),
    Row(V, ("routes: expected those of the 4 × 9 tokens", "got 4 × 8", "routes.fit"), replay(routes(width=8))),
    Row(V, ("routes: expected those of the 4 × 9 tokens", "got 9 × 4"), replay(routes(rows=9, width=4))),
    Row(
        V,
        ("model: expected 4 sequences that go on at position 9", "got 4 at position 0", "a block of its own"),
        two_batches,
    ),
    Row(RuntimeError, ("replay_routes: the model is being recorded or replayed already", "cannot be nested"), nested),
    Row(RuntimeError, ("replay_routes: gradient checkpointing", "1 forward(s)", "call backward inside"), backward_outside),
]
