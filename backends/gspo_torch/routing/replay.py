"""Routing replay: a mixture of experts uses the experts of an earlier pass, with the gate values of today's router.

    with torch.no_grad(), record_routes(model) as routes:          # R2: the trainer's pass for the old log-probs
        old_logp = ...
    with replay_routes(model, routes):                             # every update of that rollout batch
        loss = ...
        loss.backward()

    with record_routes(model) as routes:                           # R3: while sampling, with a KV cache
        ids = model.generate(prompt_ids, attention_mask=...)
    routes = routes.fit(mask)                                      # mask of all of ids; replayed for the old log-probs, too

A router makes gate values g = f(z, I) of its current logits z and a selection I, by default its top K of z. Here I is the
recorded one and f stays the model's own code, for instance g_i = I_i exp(z_i) / Σ_j I_j exp(z_j): the router keeps its gradient
through the gate values, and experts outside I get none. Not for transformers' expert parallelism, where ranks
renumber experts. The balancing loss of transformers looks at the logits alone and counts the experts of free routing.

Source: GSPO, arXiv 2507.18071, section 5.3; R2 and R3: MiniRL, arXiv 2512.01374, and R3, arXiv 2510.11370.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import Hooks, hooked
from .routers import Mixture, mixture_of, recomputes
from .routes import Routes


@contextmanager
def record_routes(model: nn.Module) -> Iterator[Routes]:
    """Records the experts of every token that the model runs in this block: one batch, or one generation with a KV cache.

    The routes of position t are those of the token that is fed at t. A generation is put together in the order of
    positions: prompts, left padding included, and then one position per step, but for the last token, which is never fed.
    A block may begin with any of the steps, and its routes with the token that is fed there: a sampler whose sequences come
    and go records each step in a block of its own, and puts them together with `Routes.cat`.
    Tokens that the attention mask leaves out have no route. Layers that gradient checkpointing runs again are not recorded
    again.

    Args:
        model: a mixture whose routers choose by `torch.topk`, as those of 55 families of transformers do (docs/moe.md), wrapped
            or not; any dense model, which is left alone.

    Returns: a context manager; its `Routes` are empty in the block and filled when it is left without an exception.

    Raises: TypeError for a mixture with other routers, RuntimeError inside of another block of the same model, and from the
    forward where a router does not choose exactly once, ValueError where a second batch begins in the block, or a cache has
    been cut.

    >>> from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    >>> config = Qwen3MoeConfig(vocab_size=8, hidden_size=8, head_dim=4, num_hidden_layers=2, num_experts_per_tok=2)
    >>> model = Qwen3MoeForCausalLM(config).eval()
    >>> with record_routes(model) as routes:
    ...     _ = model(torch.tensor([[1, 2, 3]]))
    >>> list(routes.experts.shape)  # layers, sequences, tokens, experts per token
    [2, 1, 3, 2]
    """
    mixture = mixture_of(model)
    recorder = _Recorder(mixture)
    routes = recorder.result()
    with hooked("record_routes", mixture, recorder):
        yield routes
    full = recorder.result()
    routes.experts, routes.routed = full.experts, full.routed


@contextmanager
def replay_routes(model: nn.Module, routes: Routes) -> Iterator[Routes]:
    """Every forward of the model in this block sends its tokens to the recorded experts, with the router's current gates.

    Tokens without a route go where the router sends them. With gradient checkpointing the backward belongs in the block,
    since the layers are run again there.

    Args:
        model: the model that was recorded, or another with as many mixture layers, experts, and experts per token.
        routes: of the N × S tokens that the model will run, in the same places; for a mini-batch, `routes.rows(index)`.

    Returns: a context manager; its `Routes` are empty in the block and, when it is left without an exception, what today's
    router would have chosen in the last forward, where the layers before followed the recorded routes: `routes.flips(free)`
    says how far the router has moved away from them. They live where the model ran.

    Raises: TypeError for a mixture with other routers, or for routes that are no `Routes`; ValueError for routes of another
    model or other tokens, or of experts that do not exist or come twice; RuntimeError inside of another block of the same
    model, if checkpointed layers were not run again when the block ends, or where a router does not choose exactly once.

    >>> from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    >>> config = Qwen3MoeConfig(vocab_size=8, hidden_size=8, head_dim=4, num_hidden_layers=2, num_experts_per_tok=2)
    >>> model, tokens = Qwen3MoeForCausalLM(config).eval(), torch.tensor([[1, 2, 3]])
    >>> with record_routes(model) as routes:
    ...     old = model(tokens).logits
    >>> with replay_routes(model, routes) as free:
    ...     print(bool((model(tokens).logits == old).all()))
    True
    >>> routes.flips(free).tolist()
    [0.0, 0.0]
    """
    mixture = mixture_of(model)
    _check(mixture, routes)
    replayer = _Replayer(mixture, routes)
    free = Routes(routes.experts[:, :0], routes.routed[:0], routes.num_experts)
    with hooked("replay_routes", mixture, replayer):
        yield free
    if replayer.free:
        layers = _in_order(mixture, replayer.free, routes.experts.shape[1:], routes.experts.device)
        free.experts, free.routed = torch.stack(layers), routes.routed
    if replayer.owed > 0:
        raise RuntimeError(
            f"replay_routes: gradient checkpointing has yet to run the layers of {replayer.owed} forward(s) again, and would "
            "route them freely; call backward inside of the block, or run the forward under torch.no_grad()"
        )


class _Recorder(Hooks):
    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.dtype = torch.uint8 if mixture.num_experts <= 256 else torch.int16
        self.parts: list[Routes] = []
        self.start = self.next = 0
        """Where the current forward begins, and where the next one has to, once there are parts."""
        self.now: dict[int, Tensor] | None = None
        self.mask = torch.ones(0, 0, dtype=torch.bool)

    def begin(self, shape: tuple[int, int], mask: Any, start: int) -> None:
        """A forward begins; ValueError unless it goes on where the recorded one ended."""
        count = self.mask.shape[0] if self.parts else shape[0]
        if self.parts and (start != self.next or shape[0] != count):
            raise ValueError(
                f"model: expected {count} sequences that go on at position {self.next}, got {shape[0]} at position "
                f"{start}; record each batch in a block of its own"
            )
        self.start = start
        known = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= start + shape[1]
        self.mask = mask[:, start : start + shape[1]].bool() if known else torch.ones(shape, dtype=torch.bool)
        self.now = {}

    def chosen(self, layer: int, experts: Tensor) -> None:
        """Keep the experts that a router chose."""
        if self.now is not None:  # outside of the backbone, a checkpointed layer is run again
            _only_once(self.mixture, layer, self.now)
            self.now[layer] = experts.detach().to(self.dtype)

    def end(self, output: Any) -> None:
        """A forward has ended: its routes are a part of the recording, unless it raised."""
        if output is not None and self.now is not None:
            device = next(iter(self.now.values())).device if self.now else self.mask.device
            shape = (*self.mask.shape, self.mixture.top_k)
            layers = _in_order(self.mixture, self.now, shape, device)
            experts = torch.stack(layers) if layers else torch.zeros(0, *shape, dtype=self.dtype)
            self.parts.append(Routes(experts, self.mask.to(device), self.mixture.num_experts))
            self.next = self.start + self.mask.shape[1]
        self.now = None

    def result(self) -> Routes:
        """The parts, concatenated along the positions."""
        layers, top_k, num_experts = len(self.mixture.routers), self.mixture.top_k, self.mixture.num_experts
        if not self.parts:
            return Routes(torch.zeros(layers, 0, 0, top_k, dtype=self.dtype), torch.ones(0, 0, dtype=torch.bool), num_experts)
        return Routes.cat(self.parts, dim=1)


class _Replayer(Hooks):
    def __init__(self, mixture: Mixture, routes: Routes) -> None:
        self.mixture, self.routes = mixture, routes
        self.running = False
        self.free: dict[int, Tensor] = {}
        """By layer, [..., K]: what the router would have chosen in the last forward."""
        self.owed = 0
        """Forwards whose layers are still to be run again by backward."""

    def begin(self, shape: tuple[int, int], mask: Any, start: int) -> None:
        """A forward begins; ValueError unless it is of the recorded tokens."""
        if self.mixture.routers and (start or shape != tuple(self.routes.routed.shape)):
            raise ValueError(
                f"routes: expected those of the {shape[0]} × {shape[1]} tokens that the model runs from position {start} on, "
                f"got {' × '.join(map(str, self.routes.routed.shape))} from 0 on; routes.rows and routes.fit adapt them"
            )
        self.running, self.free = True, {}

    def chosen(self, layer: int, experts: Tensor) -> Tensor:
        """The recorded experts, and where there are none the router's own."""
        self.owed -= layer == 0 and not self.running
        if self.running:  # and not when a checkpointed layer is run again
            _only_once(self.mixture, layer, self.free)
            self.free[layer] = experts.to(self.routes.experts.dtype)
        recorded = self.routes.experts[layer].reshape(experts.shape).to(experts)
        routed = self.routes.routed.reshape(*experts.shape[:-1], 1).to(experts.device)
        return torch.where(routed, recorded, experts)

    def end(self, output: Any) -> None:
        """A forward has ended; with gradient checkpointing, backward will run its layers once more."""
        self.running = False
        if self.mixture.routers and output is not None:
            self.owed += output[0].requires_grad and recomputes(self.mixture.backbone)


def _only_once(mixture: Mixture, layer: int, seen: dict[int, Tensor]) -> None:
    if layer in seen:
        name = type(mixture.routers[layer]).__name__
        raise RuntimeError(f"model: expected each router to run once in a forward, got {name} of mixture layer {layer} again")


def _in_order(mixture: Mixture, seen: dict[int, Tensor], shape: Sequence[int], device: torch.device) -> list[Tensor]:
    """The choices [N, S, K] of all layers. RuntimeError if a router has not run."""
    for layer, router in enumerate(mixture.routers):
        if layer not in seen:
            name = type(router).__name__
            raise RuntimeError(f"model: expected every router to run in a forward, got none of {name} of mixture layer {layer}")
    return [seen[layer].reshape(shape).to(device) for layer in range(len(mixture.routers))]


def _check(mixture: Mixture, routes: Routes) -> None:
    if not isinstance(routes, Routes):
        raise TypeError(f"routes: expected Routes, as record_routes gives them, got {type(routes).__name__}")
    expected = (len(mixture.routers), mixture.top_k, mixture.num_experts)
    layers, _, _, top_k = routes.experts.shape
    if (layers, top_k, routes.num_experts) != expected:
        raise ValueError(
            "routes: expected those of a model with {} mixture layers and {} of {} experts".format(*expected)
            + f", got {layers} layers and {top_k} of {routes.num_experts} experts"
        )
    if _impossible(routes):
        raise ValueError(f"routes: expected {top_k} different experts in [0, {expected[2]}) for each routed token")


def _impossible(routes: Routes) -> bool:
    """Whether a routed token has an expert that does not exist, or one twice, which would count it twice."""
    ordered = routes.experts.to(torch.int16).sort(-1).values  # a comparison of uint8 with 256 would be one with 0
    wrong = ((ordered < 0) | (ordered > routes.num_experts - 1)).any(-1) | (ordered[..., 1:] == ordered[..., :-1]).any(-1)
    return bool((wrong & routes.routed).any())
