"""What routing replay promises for a family of mixtures, measured on a tiny random model of it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from gspo_torch import Routes, record_routes, replay_routes
from gspo_torch.routing.routers import mixture_of
from torch import Tensor
from torch.overrides import TorchFunctionMode

from integration.mixtures.tiny import PAD, VOCABULARY, tiny

ROWS, WIDTH = 3, 7
_SINGLE, _DOUBLE = {torch.float32, torch.float}, torch.float64


class Replayed(NamedTuple):
    """Of one family."""

    family: str
    routers: tuple[str, ...]
    """Names of the classes."""
    layers: int
    identical: bool
    """A replay of a model's own routes gives its log-probs and gradients, bit for bit."""
    flips: float
    """Share of slots that a change of the weights moves to another expert, without replay."""
    ordered: bool
    """A replay of the same experts in another order gives the same log-probs: each gate value goes with its expert."""
    kept: bool
    """In a replay after that change the experts outside of the routes get no gradient, and those inside get some."""
    gradient: float
    """Relative difference of the routers' gradient from central differences in float64, along a random direction."""

    @property
    def right(self) -> bool:
        """All of it. A step of 1e-6 leaves central differences an error of some 1e-8 by rounding and by curvature."""
        return self.identical and self.ordered and self.kept and self.flips > 0.02 and self.gradient < 1e-6


def measure(family: str, **changes: Any) -> Replayed:
    """Raises TypeError for a family whose routes cannot be recorded."""
    model = tiny(family, **changes)
    mixture = mixture_of(model)
    names = tuple(sorted({type(router).__name__ for router in mixture.routers}))
    identical, routes = _identity(model)
    ordered, kept = _ordered(model, routes), _kept(model)
    flips, gradient = _flips(copy.deepcopy(model), routes), _gradient(_eager(model))
    return Replayed(family, names, len(mixture.routers), identical, flips, ordered, kept, gradient)


def batch() -> tuple[Tensor, Tensor]:
    """(tokens [N, S], attention [N, S]); row i has i slots of left padding."""
    tokens = torch.randint(1, VOCABULARY, (ROWS, WIDTH), generator=torch.Generator().manual_seed(1))
    attention = (torch.arange(WIDTH) >= torch.arange(ROWS)[:, None]).long()
    return torch.where(attention > 0, tokens, PAD), attention


def log_probs(model: Any) -> Tensor:
    """[N, S − 1] of each token of the batch given those before it; 0 where it or its predecessor is padding."""
    tokens, attention = batch()
    logits = model(input_ids=tokens, attention_mask=attention, use_cache=False).logits
    logp = torch.log_softmax(logits[:, :-1], -1).gather(-1, tokens[:, 1:, None])[..., 0]
    return torch.where((attention[:, 1:] * attention[:, :-1]) > 0, logp, 0.0)


def recorded(model: Any) -> Routes:
    """Routes of a pass without gradient."""
    with torch.no_grad(), record_routes(model) as routes:
        log_probs(model)
    return routes


def moved(model: Any, by: float = 0.2) -> Any:
    """The model, with every weight moved by a random share of its tensor's spread."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(by * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return model


def _identity(model: Any) -> tuple[bool, Routes]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    free = log_probs(model)
    routes = recorded(model)
    with replay_routes(model, routes):
        again = log_probs(model)
        replayed = torch.autograd.grad(again.sum(), parameters, allow_unused=True)
    expected = torch.autograd.grad(free.sum(), parameters, allow_unused=True)
    pairs = list(zip(replayed, expected, strict=True))
    same = all(a is b is None or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)
    return torch.equal(again, free) and same and bool(free.isfinite().all()), routes


def _ordered(model: Any, routes: Routes) -> bool:
    """Sums over experts round otherwise, in the fifth digit."""
    with torch.no_grad():
        free = log_probs(model)
        with replay_routes(model, Routes(routes.experts.flip(-1), routes.routed, routes.num_experts)):
            return torch.allclose(log_probs(model), free, rtol=0, atol=1e-3)


def _flips(model: Any, routes: Routes) -> float:
    """Of the layer that changes least."""
    return float(recorded(moved(model)).flips(routes).min())


def _kept(model: Any) -> bool:
    """Every token goes to the experts 0 to K − 1: they have a gradient, and the others none."""
    mixture = mixture_of(model)
    used, shape = mixture.top_k, (len(mixture.routers), ROWS, WIDTH, mixture.top_k)
    experts = torch.arange(used, dtype=torch.uint8).expand(shape)
    routes = Routes(experts, torch.ones(ROWS, WIDTH, dtype=torch.bool), mixture.num_experts)
    if (recorded(model).flips(routes) < 0.02).any():
        return False  # the routers would choose so by themselves
    with replay_routes(model, routes):
        log_probs(model).sum().backward()
    gradients = list(_by_expert(model))
    return bool(gradients) and all((g[:used] != 0).any(1).all() and not g[used:].any() for g in gradients)


def _by_expert(model: Any) -> Iterable[Tensor]:
    """[E, numbers] gradients of the experts' weights."""
    routers = mixture_of(model).routers
    layers = [m for m in model.modules() if any(r in (m, *m.children()) for r in routers)]
    for name, module in (child for layer in layers for child in layer.named_children()):
        if type(module).__name__.endswith("Experts") and not name.startswith("shared"):
            numbers = [getattr(module, name) for name in ("num_experts", "moe_num_experts") if hasattr(module, name)]
            for parameter in module.parameters():
                assert parameter.grad is not None
                yield parameter.grad.reshape((numbers or [len(parameter)])[0], -1)


class Doubled(TorchFunctionMode):
    """Routers compute in float32 whatever the model's precision is; here in float64, so that differences can be small."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The function, asked for float64 where it is asked for float32."""
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(_DOUBLE if isinstance(a, torch.dtype) and a in _SINGLE else a for a in args)
        kwargs = {k: _DOUBLE if isinstance(v, torch.dtype) and v in _SINGLE else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


def _eager(model: Any) -> Any:
    """In float64, where grouped matrix products do not exist."""
    model.set_experts_implementation("eager")
    return model.double()


def _gradient(model: Any, step: float = 1e-6) -> float:
    with Doubled():
        routes = recorded(model)
        moved(model)
        weights = [w for r in mixture_of(model).routers for w in _own(r)]
        generator = torch.Generator().manual_seed(3)
        direction = [torch.randn(w.shape, generator=generator, dtype=_DOUBLE) for w in weights]
        with replay_routes(model, routes):
            found = torch.autograd.grad(log_probs(model).sum(), weights)
        along = float(sum((g * d).sum() for g, d in zip(found, direction, strict=True)))
        ends = []
        for sign in (1, -2):
            with torch.no_grad():
                for w, d in zip(weights, direction, strict=True):
                    w.add_(d, alpha=sign * step)
                with replay_routes(model, routes):
                    ends.append(float(log_probs(model).sum()))
    differences = (ends[0] - ends[1]) / (2 * step)
    return abs(along - differences) / max(abs(differences), 1e-12)


def _own(router: Any) -> Iterable[Tensor]:
    """Its weights, without those of experts where a whole mixture layer is the router."""
    return [w for name, w in router.named_parameters() if w.requires_grad and not name.startswith("experts.")]
