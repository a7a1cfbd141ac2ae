"""How each array library differentiates. Frameworks are loaded by name when they are first needed, never by an import."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .batch import Floats
from .subject import Call, Framework, Inputs


@dataclass(frozen=True)
class NumPy:
    """No autodiff: the kit takes central differences, unless the loss returns its own gradient."""

    name: str = "numpy"

    def outcome(self, call: Call, inputs: Inputs) -> tuple[Any, Floats | None]:
        """(what was returned, None)."""
        return call(inputs), None

    def compiled(self, call: Call) -> Call | None:
        """Never."""
        return None


class Torch:
    """Autograd; float64 unless asked otherwise."""

    name = "torch"

    @cached_property
    def _torch(self) -> Any:
        return importlib.import_module("torch")

    def _arrays(self, inputs: Inputs) -> Inputs:
        return {k: self._torch.tensor(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()}

    def outcome(self, call: Call, inputs: Inputs) -> tuple[Any, Floats | None]:
        """(what was returned, gradient); no gradient where the loss does not depend on logp, as autograd sees it."""
        arrays = self._arrays(inputs)
        arrays["logp"].requires_grad_()
        returned = call(arrays)
        if hasattr(returned, "logp_grad"):
            return returned, None
        value = returned[0] if isinstance(returned, tuple) else returned
        if not isinstance(value, self._torch.Tensor):
            raise TypeError(f"expected a tensor, got {type(value).__name__}")
        if not value.requires_grad:
            return value, np.zeros(arrays["logp"].shape)
        (gradient,) = self._torch.autograd.grad(value, arrays["logp"], allow_unused=True)
        found = np.zeros(arrays["logp"].shape) if gradient is None else gradient.numpy().astype(np.float64)
        return value, found

    def compiled(self, call: Call) -> Call | None:
        """Captured by torch.compile, without the slow code generator: what Python does while tracing is what counts."""
        compiled: Call = self._torch.compile(call, backend="eager", fullgraph=True)
        return compiled


class Jax:
    """jax.value_and_grad with 64 bits switched on; jitted where the loss can be traced, which is much faster."""

    name = "jax"

    @cached_property
    def _jax(self) -> Any:
        return importlib.import_module("jax")

    @cached_property
    def _kept(self) -> dict[Call, Callable[[Inputs], Any]]:
        return {}

    def outcome(self, call: Call, inputs: Inputs) -> tuple[Any, Floats | None]:
        """(what was returned, gradient)."""
        with self._jax.enable_x64(True), contextlib.ExitStack():
            if call not in self._kept:
                self._kept[call] = self._differentiated(call)
            value, gradient = self._kept[call]({k: self._array(x) for k, x in inputs.items()})
            return np.asarray(value), np.asarray(gradient, dtype=np.float64)

    def _array(self, x: Any) -> Any:
        return self._jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x

    def _differentiated(self, call: Call) -> Callable[[Inputs], Any]:
        def value(logp: Any, others: Inputs) -> Any:
            returned = call({**others, "logp": logp})
            return returned[0] if isinstance(returned, tuple) else returned

        def both(inputs: Inputs) -> Any:
            others = {k: x for k, x in inputs.items() if k != "logp"}
            return self._jax.value_and_grad(value)(inputs["logp"], others)

        return both

    def compiled(self, call: Call) -> Call | None:
        """jax.jit."""
        jitted: Call = self._jax.jit(call)
        return jitted


NUMPY = NumPy()
TORCH = Torch()
JAX = Jax()
FRAMEWORKS: dict[str, Framework] = {"numpy": NUMPY, "torch": TORCH, "jax": JAX}


def installed() -> list[Framework]:
    """The frameworks that can be imported."""
    return [found for name, found in FRAMEWORKS.items() if importlib.util.find_spec(name) is not None]
