"""How each array library differentiates. Frameworks are loaded by name when they are first needed, never by an import."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from .subject import Answer, Call, Framework, Inputs


def value_of(returned: Any) -> Any:
    """The loss in what a function returns: a scalar, or the first of a tuple."""
    return returned[0] if isinstance(returned, tuple) else returned


def _own(returned: Any, numpy: Callable[[Any], Any]) -> Answer:
    """What a loss says of itself that returns its own gradient."""
    parts = (getattr(returned, name, None) for name in ("value", "logp_grad", "log_ratio", "clipped"))
    return Answer(*(None if x is None else numpy(x) for x in parts))


class NumPy:
    """No autodiff: the kit takes central differences, unless the loss returns its own gradient."""

    name = "numpy"

    def array(self, x: Any) -> Any:
        """From a NumPy array to the library's."""
        return x

    def numpy(self, x: Any) -> Any:
        """And back."""
        if not isinstance(x, (int, float, np.ndarray, np.generic)):
            raise TypeError(f"expected a NumPy scalar, got {type(x).__name__}")
        return x

    def outcome(self, call: Call, inputs: Inputs) -> Answer:
        """The loss's own gradient, or none."""
        arrays = {k: self.array(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()}
        returned = call(arrays)
        return _own(returned, self.numpy) if hasattr(returned, "logp_grad") else Answer(self.numpy(value_of(returned)), None)

    def leaks(self, call: Call, inputs: Inputs) -> dict[str, Any]:
        """Nothing can leak."""
        return {}

    def counterpart(self, call: Call) -> Call | None:
        """Never."""
        return None


class Strict(NumPy):
    """array-api-strict: nothing but the standard, so that what is written for any array library shows that it is."""

    name = "array_api_strict"

    @cached_property
    def _strict(self) -> Any:
        return importlib.import_module("array_api_strict")

    def array(self, x: Any) -> Any:
        """A copy."""
        return self._strict.asarray(x, copy=True)

    def numpy(self, x: Any) -> Any:
        """From an array, or a Python number."""
        return np.from_dlpack(x) if hasattr(x, "__dlpack__") else np.asarray(x)


class Torch:
    """Autograd; float64 unless asked otherwise."""

    name = "torch"

    @cached_property
    def _torch(self) -> Any:
        return importlib.import_module("torch")

    def _arrays(self, inputs: Inputs) -> Inputs:
        return {k: self._torch.tensor(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()}

    def outcome(self, call: Call, inputs: Inputs) -> Answer:
        """The gradient is 0 where the loss does not depend on logp, as autograd sees it."""
        arrays = self._arrays(inputs)
        arrays["logp"].requires_grad_()
        returned = call(arrays)
        if hasattr(returned, "logp_grad"):
            return _own(returned, lambda x: x.detach().numpy())
        value = value_of(returned)
        if not isinstance(value, self._torch.Tensor):
            raise TypeError(f"expected a tensor, got {type(value).__name__}")
        gradient = self._torch.autograd.grad(value, arrays["logp"], allow_unused=True)[0] if value.requires_grad else None
        return Answer(value.detach().numpy(), np.zeros(inputs["logp"].shape) if gradient is None else gradient.numpy())

    def leaks(self, call: Call, inputs: Inputs) -> dict[str, Any]:
        """Zeros where autograd finds no path."""
        arrays = self._arrays(inputs)
        asked = {name: arrays[name].requires_grad_() for name in ("old_logp", "advantage")}
        arrays["logp"].requires_grad_()
        found = self._torch.autograd.grad(value_of(call(arrays)), list(asked.values()), allow_unused=True)
        return {k: np.zeros(inputs[k].shape) if g is None else g.numpy() for k, g in zip(asked, found, strict=True)}

    def counterpart(self, call: Call) -> Call | None:
        """Captured by torch.compile, without the slow code generator: what Python does while tracing is what counts."""
        captured = self._torch.compile(call, backend="eager", fullgraph=True)

        def quiet(inputs: Inputs) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the capture warns about what it takes for granted
                return captured(inputs)

        return quiet


class Jax:
    """jax.value_and_grad with 64 bits switched on, compiled for speed unless the loss cannot be traced."""

    name = "jax"

    @cached_property
    def _jax(self) -> Any:
        return importlib.import_module("jax")

    @cached_property
    def _kept(self) -> dict[Call, tuple[Call, Call]]:
        return {}

    def outcome(self, call: Call, inputs: Inputs) -> Answer:
        """Compiled, if the loss can be."""
        with self._jax.enable_x64(True):
            if call not in self._kept:
                eager = self._differentiated(call)
                self._kept[call] = (self._jax.jit(eager), eager)
            jitted, eager = self._kept[call]
            arrays = {k: self._jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()}
            try:
                found = jitted(arrays)
            except self._jax.errors.JAXTypeError:  # values are looked at: a loss for eager use only
                self._kept[call] = (eager, eager)
                found = eager(arrays)
            return Answer(*(None if x is None else np.asarray(x) for x in found))

    def _differentiated(self, call: Call) -> Call:
        def value(logp: Any, others: Inputs) -> Any:
            return value_of(call({**others, "logp": logp}))

        def both(inputs: Inputs) -> Any:
            returned = call(inputs)
            if hasattr(returned, "logp_grad"):
                return _own(returned, lambda x: x)
            others = {k: x for k, x in inputs.items() if k != "logp"}
            return Answer(*self._jax.value_and_grad(value)(inputs["logp"], others))

        return both

    def leaks(self, call: Call, inputs: Inputs) -> dict[str, Any]:
        """By jax.grad."""

        def value(asked: Inputs, others: Inputs) -> Any:
            return value_of(call({**others, **asked}))

        with self._jax.enable_x64(True):
            arrays = {k: self._jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()}
            asked = {name: arrays.pop(name) for name in ("old_logp", "advantage")}
            return {k: np.asarray(g) for k, g in self._jax.grad(value)(asked, arrays).items()}

    def counterpart(self, call: Call) -> Call | None:
        """The other way round: without jit, since everything else is asked of the jitted loss."""

        def eager(inputs: Inputs) -> Any:
            return call(inputs)

        self._kept[eager] = (self._differentiated(call),) * 2
        return eager


NUMPY = NumPy()
STRICT = Strict()
TORCH = Torch()
JAX = Jax()
FRAMEWORKS: dict[str, Framework] = {"numpy": NUMPY, "torch": TORCH, "jax": JAX}
"""Those that a loss is tried on without being asked."""


def installed() -> list[Framework]:
    """The frameworks that can be imported."""
    return [found for name, found in FRAMEWORKS.items() if importlib.util.find_spec(name) is not None]
