"""How each array library differentiates a loss. Libraries are imported by name when they are first needed."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np

from .names import Call, Inputs
from .subject import CompilerRefusal, Framework, RawResult


def value_of(returned: Any) -> Any:
    """The loss among the returned values: a scalar, the first entry of a tuple, the `value` beside a gradient, or the entry or
    attribute called loss.

    >>> value_of({"policy_loss": 1.5, "clip_fraction": 0.0}), value_of((2.0, {}))
    (1.5, 2.0)
    """
    if hasattr(returned, "logp_grad"):
        return returned.value
    if isinstance(returned, dict):
        found = next((name for name in LOSSES if name in returned), None)
        if found is None:
            raise TypeError(f"expected one of {', '.join(LOSSES)} in the returned dict, got {', '.join(map(str, returned))}")
        return returned[found]
    if isinstance(returned, (tuple, list)):
        return returned[0]
    return getattr(returned, "loss", returned)


LOSSES = ("loss", "total_loss", "policy_loss", "pg_loss", "actor_loss", "value")
"""Names of the loss in a dict; the first one that is there counts."""


CONSTANTS = ("old_logp", "advantage", "ref_logp", "sampler_logp")
"""Inputs through which no gradient should flow."""


def _own(returned: Any, numpy: Callable[[Any], Any]) -> RawResult:
    """Value, gradient and reported fields of a loss that returns its own gradient."""
    parts = (getattr(returned, name, None) for name in ("value", "logp_grad", "log_ratio", "clipped"))
    return RawResult(*(None if x is None else numpy(x) for x in parts))


class NumPy:
    """NumPy has no autodiff: the kit takes central differences, unless the loss returns its own gradient."""

    name, autodiff = "numpy", False

    def array(self, x: Any) -> Any:
        """From a NumPy array to the library's."""
        return x

    def numpy(self, x: Any) -> Any:
        """From the library to NumPy."""
        if not isinstance(x, (int, float, np.ndarray, np.generic)):
            raise TypeError(f"expected a NumPy scalar, got {type(x).__name__}")
        return x

    def evaluate(self, call: Call, inputs: Inputs) -> RawResult:
        """The value, and the gradient if the loss returns one."""
        arrays = {k: self.array(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()}
        returned = call(arrays)
        return _own(returned, self.numpy) if hasattr(returned, "logp_grad") else RawResult(self.numpy(value_of(returned)), None)

    def leaks(self, call: Call, inputs: Inputs) -> dict[str, Any]:
        """Empty: NumPy has no autodiff."""
        return {}

    def counterpart(self, call: Call) -> Call | None:
        """None: NumPy does not compile."""
        return None

    def changed(self, call: Call, inputs: Inputs) -> tuple[str, ...]:
        """Compares each array with a copy from before the call."""
        arrays = {k: self.array(x) for k, x in inputs.items() if isinstance(x, np.ndarray)}
        before = {k: np.array(self.numpy(x)) for k, x in arrays.items()}
        call({**inputs, **arrays})
        return tuple(k for k, x in arrays.items() if not np.array_equal(self.numpy(x), before[k], equal_nan=True))


class Strict(NumPy):
    """array-api-strict: implements the array API standard and nothing else, so a loss that runs here is portable."""

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
    """PyTorch, differentiated by autograd."""

    name, autodiff = "torch", True

    @cached_property
    def _torch(self) -> Any:
        return importlib.import_module("torch")

    def _arrays(self, inputs: Inputs) -> Inputs:
        return {k: self._torch.tensor(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()}

    def evaluate(self, call: Call, inputs: Inputs) -> RawResult:
        """Value and gradient; the gradient is 0 if autograd finds no path from the loss to logp."""
        arrays = self._arrays(inputs)
        arrays["logp"].requires_grad_()
        returned = call(arrays)
        if hasattr(returned, "logp_grad"):
            return _own(returned, lambda x: x.detach().numpy())
        value = value_of(returned)
        if not isinstance(value, self._torch.Tensor):
            raise TypeError(f"expected a tensor, got {type(value).__name__}")
        gradient = self._torch.autograd.grad(value, arrays["logp"], allow_unused=True)[0] if value.requires_grad else None
        return RawResult(value.detach().numpy(), np.zeros(inputs["logp"].shape) if gradient is None else gradient.numpy())

    def leaks(self, call: Call, inputs: Inputs) -> dict[str, Any]:
        """Gradients by autograd; zeros where it finds no path."""
        arrays = self._arrays(inputs)
        constants = {name: arrays[name].requires_grad_() for name in CONSTANTS if name in arrays}
        arrays["logp"].requires_grad_()
        value = value_of(call(arrays))
        if not value.requires_grad:
            return {}
        found = self._torch.autograd.grad(value, list(constants.values()), allow_unused=True)
        return {k: np.zeros(inputs[k].shape) if g is None else g.numpy() for k, g in zip(constants, found, strict=True)}

    def counterpart(self, call: Call) -> Call | None:
        """The loss captured by torch.compile with the backend "eager": mistakes of tracing show without code generation."""
        # The limit of recompilations counts all losses of a process, since they share the code of `Names.bound`.
        importlib.import_module("torch._dynamo").reset()
        captured = self._torch.compile(call, backend="eager", fullgraph=True)
        errors = importlib.import_module("torch._dynamo.exc")
        refusals = (errors.TorchDynamoException, *(x for x in (getattr(errors, "FailOnRecompileLimitHit", None),) if x))

        def quiet(inputs: Inputs) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the capture warns about its own assumptions
                try:
                    return captured(inputs)
                except refusals as error:
                    raise CompilerRefusal(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error

        return quiet

    def changed(self, call: Call, inputs: Inputs) -> tuple[str, ...]:
        """Compares each tensor with its array."""
        arrays = self._arrays(inputs)
        call(arrays)
        tensors = {k: arrays[k] for k, x in inputs.items() if isinstance(x, np.ndarray)}
        return tuple(k for k, x in tensors.items() if not np.array_equal(x.detach().numpy(), inputs[k], equal_nan=True))


class Jax:
    """JAX with 64-bit numbers enabled: jax.value_and_grad, compiled unless the loss cannot be traced."""

    name, autodiff = "jax", True

    @cached_property
    def _jax(self) -> Any:
        return importlib.import_module("jax")

    @cached_property
    def _jit(self) -> Any:
        """jax.jit with few optimisations, if this version has these options: a check compiles 150 programs, and runs each a
        few times, for a millisecond."""
        options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
        quick = partial(self._jax.jit, compiler_options=options)
        try:
            quick(lambda x: x)(1.0)
        except Exception:  # another version of XLA, or another device: an error of any type
            return self._jax.jit
        return quick

    @cached_property
    def _kept(self) -> dict[Call, tuple[Call, Call]]:
        return {}

    def evaluate(self, call: Call, inputs: Inputs) -> RawResult:
        """Value and gradient, compiled if the loss can be traced."""
        with self._jax.enable_x64(True):
            if call not in self._kept:
                eager = self._differentiated(call)
                self._kept[call] = (self._jit(eager), eager)
            jitted, eager = self._kept[call]
            arrays = {k: self._jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()}
            try:
                found = jitted(arrays)
            except self._jax.errors.JAXTypeError:  # the loss inspects values: eager use only
                self._kept[call] = (eager, eager)
                found = eager(arrays)
            return RawResult(*(None if x is None else np.asarray(x) for x in found))

    def _differentiated(self, call: Call) -> Call:
        def value(logp: Any, others: Inputs) -> Any:
            return value_of(call({**others, "logp": logp}))

        def both(inputs: Inputs) -> Any:
            returned = call(inputs)
            if hasattr(returned, "logp_grad"):
                return _own(returned, lambda x: x)
            others = {k: x for k, x in inputs.items() if k != "logp"}
            return RawResult(*self._jax.value_and_grad(value)(inputs["logp"], others))

        return both

    def leaks(self, call: Call, inputs: Inputs) -> dict[str, Any]:
        """Gradients by jax.grad, compiled if the loss can be traced."""

        def value(constants: Inputs, others: Inputs) -> Any:
            return value_of(call({**others, **constants}))

        with self._jax.enable_x64(True):
            arrays = {k: self._jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()}
            constants = {name: arrays.pop(name) for name in CONSTANTS if name in arrays}
            eager = self._jax.grad(value)
            try:
                found = self._jit(eager)(constants, arrays)
            except self._jax.errors.JAXTypeError:
                found = eager(constants, arrays)
            return {k: np.asarray(g) for k, g in found.items()}

    def counterpart(self, call: Call) -> Call | None:
        """The loss without jit, since all other calls are jitted."""

        def eager(inputs: Inputs) -> Any:
            return call(inputs)

        self._kept[eager] = (self._differentiated(call),) * 2
        return eager

    def changed(self, call: Call, inputs: Inputs) -> tuple[str, ...]:
        """None: JAX's arrays cannot be written into."""
        return ()


NUMPY = NumPy()
STRICT = Strict()
TORCH = Torch()
JAX = Jax()
FRAMEWORKS: dict[str, Framework] = {"numpy": NUMPY, "torch": TORCH, "jax": JAX}
"""The frameworks that are tried, in this order, if none is named."""


def installed() -> list[Framework]:
    """The frameworks that can be imported."""
    return [found for name, found in FRAMEWORKS.items() if importlib.util.find_spec(name) is not None]
