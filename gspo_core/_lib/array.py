"""The boundary to array libraries: the only file that knows array_api_compat.

Everything here works on NumPy, PyTorch, JAX, array-api-strict and any other array-API library, eagerly and
traced: no boolean indexing, no truth value of an array, no in-place write, no data-dependent shape.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    is_array_api_obj,
    is_array_api_strict_namespace,
    is_jax_namespace,
    is_numpy_namespace,
)
from array_api_compat import (
    device as device_of_any,
)

from gspo_core.types import Array, Namespace

# exp() is exact up to here and continues along its tangent beyond: e^50 · 10^6 · |A| still fits into float32.
EXP_CAP = 50.0

# Statistics that sum squares of exp(x) count a larger x as this: e^40 times any number of tokens fits into float32.
EXP_SQUARED_CAP = 20.0

_BITS = {np.dtype(np.float32): np.dtype(np.int32), np.dtype(np.float64): np.dtype(np.int64)}


def namespace(**arrays: Array) -> Namespace:
    """The array-API namespace that all named arrays share; TypeError names the argument that is no array."""
    known = [_library_at_once(x) for x in arrays.values()]
    if known[0] is not None and all(xp is known[0] for xp in known):
        return known[0]
    for name, x in arrays.items():
        if not is_array(x):
            raise TypeError(f"{name}: expected an array, got {type(x).__name__}")
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(
                f"{name}: expected an array without a mask of its own, got a MaskedArray; pass x.data and x.mask apart"
            )
    try:
        return array_namespace(*arrays.values())
    except TypeError as error:
        usual, odd = _odd_one_out(arrays)
        raise TypeError(
            f"{odd}: expected an array of one library with {usual} ({_kind(arrays[usual])}), got {_kind(arrays[odd])}"
        ) from error


def _library_at_once(x: Array) -> Namespace | None:
    """What array_namespace answers for the arrays met most often; None for others.

    A layout asks for its library often. array_api_compat takes as long as a small operation to answer, and torch.compile,
    which traces through every cached function, spent half of its tracing there.
    """
    if type(x) is np.ndarray:
        return _numpy()
    torch = sys.modules.get("torch")
    if torch is not None and type(x) in (torch.Tensor, torch.nn.Parameter):
        from array_api_compat import torch as library  # noqa: PLC0415 - imports PyTorch, which is there

        return library
    return None


@cache
def _numpy() -> Namespace:
    """Imported when the first array is met: it takes every part of NumPy along, a third of the time of the core's import."""
    return array_namespace(np.empty(0))


def _odd_one_out(arrays: Mapping[str, Array]) -> tuple[str, str]:
    """(the first name of the library that most arrays are of, the first name of another one)."""
    libraries = {name: array_namespace(x).__name__ for name, x in arrays.items()}
    most, _ = Counter(libraries.values()).most_common(1)[0]
    return next(name for name, own in libraries.items() if own == most), next(n for n, own in libraries.items() if own != most)


def _kind(x: Array) -> str:
    return f"{type(x).__module__}.{type(x).__name__}"


def _is_torch(xp: Namespace) -> bool:
    """Whether xp is PyTorch. array_api_compat asks a cached function, of which torch.compile warns."""
    return xp.__name__ in ("torch", "array_api_compat.torch")


def is_array(x: Any) -> bool:
    """Whether x is an array of some library; the class of one is none, nor is a text of NumPy's."""
    if _library_at_once(x) is not None:
        return True
    if type(x) in (int, float, bool, str, type(None)):  # known without a cached function, of which torch.compile warns
        return False
    return bool(is_array_api_obj(x)) and not isinstance(x, (type, np.flexible))


def check_array(name: str, x: Any) -> None:
    """Refuses what is no array of any library, and NumPy's arrays with a mask of their own.

    Args:
        name: of the argument, for the error.
        x: the array.

    Returns: nothing.

    Raises: TypeError.

    >>> check_array("logp", np.zeros(2))
    """
    namespace(**{name: x})


def _device(x: Array) -> Any:
    return device_of_any(x) if isinstance(x, np.ndarray) or _library_at_once(x) is None else x.device


def is_of(xp: Namespace, x: Array) -> bool:
    """Whether an array is one of this library's."""
    return bool(namespace(x=x) == xp)


def shape_of(x: Array) -> tuple[int, ...]:
    """The shape as a plain tuple."""
    return tuple(x.shape)


def is_real(xp: Namespace, x: Array) -> bool:
    """Whether x holds real floating-point numbers."""
    return bool(xp.isdtype(x.dtype, "real floating"))


def is_integer(xp: Namespace, x: Array) -> bool:
    """Whether x holds integers (booleans are not integers)."""
    return bool(xp.isdtype(x.dtype, "integral"))


def at_least_float32(xp: Namespace, x: Array) -> Array:
    """x itself in float32 or float64, anything smaller or integer as float32."""
    return x if x.dtype in (xp.float32, xp.float64) else xp.astype(x, xp.float32)


def count_true(xp: Namespace, mask: Array, axis: int | None = None) -> Array:
    """Number of True entries as the library's default integer (the standard has no sum of booleans)."""
    if _is_torch(xp):
        return xp.sum(mask, axis=axis, dtype=xp.int32).to(xp.int64)
    if is_numpy_namespace(xp):  # a third of the time of a sum of booleans
        return xp.sum(mask.view(xp.uint8), axis=axis, dtype=xp.int32).astype(xp.int64)
    return xp.sum(xp.astype(mask, xp.int32), axis=axis)


def to_numpy(x: Any) -> Any:
    """A list or an array of any library, on any device, as a NumPy array on the host; gradients are left behind."""
    if not is_array(x):
        return np.asarray(x)
    xp: Any = namespace(x=x)
    if _is_torch(xp):
        return x.detach().cpu().numpy()
    return np.asarray(x) if is_numpy_namespace(xp) or is_jax_namespace(xp) else np.from_dlpack(x)


def read_if_possible(x: Any) -> Any:
    """`to_numpy` of an array whose numbers can be read; None for one that is traced or has none, and for what is no array."""
    if not is_array(x):
        return None
    try:
        return to_numpy(x)
    except (TypeError, RuntimeError):  # JAX refuses to read a traced array with a TypeError, PyTorch with a RuntimeError
        return None


def plain_number(x: Array) -> int | float | None:
    """The Python number of a [] array of real numbers, which may wait for a device; None for all else, and if unreadable."""
    if not is_array(x):
        return None
    xp, x = namespace(x=x), detached(x)
    if shape_of(x) != () or not (is_real(xp, x) or is_integer(xp, x)):
        return None
    try:
        return int(x) if is_integer(xp, x) else float(x)
    except (TypeError, RuntimeError):  # traced, or on no device; see `read_if_possible`
        return None


def is_at_hand(xp: Namespace, x: Array) -> bool:
    """Whether the numbers of an array are on the host: not traced, and no device to wait for."""
    if _is_torch(xp):
        return x.device.type == "cpu" and not xp.compiler.is_compiling()
    if is_jax_namespace(xp):
        return not isinstance(x, sys.modules["jax"].core.Tracer) and _device(x).platform == "cpu"
    return bool(is_numpy_namespace(xp) or is_array_api_strict_namespace(xp))


def number_at_hand(xp: Namespace, x: Array) -> int | float | None:
    """`plain_number` of an array on the host; None where it is traced or where one would have to wait for a device."""
    return plain_number(x) if is_at_hand(xp, x) else None


def values_at_hand(xp: Namespace, x: Array) -> Any:
    """An array on the host as a NumPy array; None where it is traced or where one would have to wait for a device."""
    return read_if_possible(x) if is_at_hand(xp, x) else None


def signed(xp: Namespace, x: Array) -> Array:
    """Integers as int32 or int64, in which one can count and subtract; those that fit into neither become negative."""
    if x.dtype in (xp.int32, xp.int64):
        return x
    bits = xp.iinfo(x.dtype).bits
    return xp.astype(x, xp.int32 if bits < 32 or (bits == 32 and is_jax_namespace(xp)) else xp.int64)


def where_true(xp: Namespace, mask: Array, x: Array) -> Array:
    """x, broadcast to the mask's shape, where the mask is True; +0 elsewhere, whatever their content (NaN included)."""
    bits = _BITS.get(x.dtype) if isinstance(x, np.ndarray) else None
    if bits is None:
        return xp.where(mask, x, 0.0)
    # Every bit times 0 or 1, as exact as where and five times as fast as NumPy's.
    return (x.view(bits) * mask.astype(bits)).view(x.dtype)


def nan_without_warning(xp: Namespace) -> bool:
    """Whether ∞ − ∞ is NaN and nothing else. NumPy warns, also of slots that hold nothing."""
    return bool(_is_torch(xp) or is_jax_namespace(xp))


def without_nan_warning(xp: Namespace) -> AbstractContextManager[Any]:
    """Within it ∞ − ∞ is NaN and nothing else, in every library."""
    return nullcontext() if nan_without_warning(xp) else np.errstate(invalid="ignore")


def scalar(xp: Namespace, value: float, like: Array) -> Array:
    """A 0-d array with the dtype and device of `like`."""
    return xp.full((), value, dtype=like.dtype, device=_device(like))


def arange_like(xp: Namespace, stop: int, like: Array) -> Array:
    """0, 1, … stop − 1 with the dtype and device of `like`."""
    return xp.arange(stop, dtype=like.dtype, device=_device(like))


def exp_finite(xp: Namespace, x: Array) -> tuple[Array, Array]:
    """(f, f′) of f(x) = eˣ for x ≤ 50 and e⁵⁰ (1 + x − 50) beyond.

    Finite for every finite float32 x a policy can produce, never flat, and f′ is the derivative of f everywhere.
    """
    over = x > EXP_CAP
    slope = xp.exp(xp.where(over, EXP_CAP, x))
    return slope * (1.0 + xp.where(over, x - EXP_CAP, 0.0)), slope


def segment_sum(xp: Namespace, x: Array, segment_ids: Array, num_segments: int) -> Array:
    """Σ of x [M] over equal ids in [0, num_segments): [num_segments]. The standard has no scatter-add."""
    ids: Any = segment_ids
    if _is_torch(xp):
        return xp.zeros(num_segments, dtype=x.dtype, device=x.device).index_add(0, ids, x)
    if is_jax_namespace(xp):
        return xp.zeros(num_segments, dtype=x.dtype).at[ids].add(x)
    if is_numpy_namespace(xp):
        return xp.bincount(ids, weights=x, minlength=num_segments).astype(x.dtype)
    mine = arange_like(xp, num_segments, ids)[:, None] == ids[None, :]
    return xp.sum(xp.where(mine, x[None, :], xp.zeros_like(x)[None, :]), axis=1, dtype=x.dtype)


def detached(x: Array) -> Array:
    """x as data, a constant to every automatic differentiation: PyTorch's, and JAX's wherever x is traced."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return x.detach()
    jax = sys.modules.get("jax")  # an array of JAX's cannot be here before JAX is
    return jax.lax.stop_gradient(x) if jax is not None and isinstance(x, jax.core.Tracer) else x
