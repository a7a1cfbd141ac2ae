"""The LM head and its options as values, the checks of arguments, and tiles of logits in float32 or float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gspo_core.backend import as_number, as_whole, check_layout
from gspo_core.layouts import Layout

Array = Any
COMPUTED = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class VocabularyAxis:
    """The head's rows are spread over a mesh axis, in equal parts; for use inside shard_map.

    Rank r of the axis holds rows r · len(lm_head) … of a vocabulary of `total`. Rows beyond it are padding: they get no
    probability and no gradient, so that any vocabulary can be cut into equal parts, and some parts may be all padding.
    Ranks exchange 12 bytes per token (maximum, sum of exponentials, picked logit), 16 with entropies, and the gradient of the
    hidden states. The docstring of `policy_loss` explains gradients under check_vma=False.

    Raises TypeError for a name that is no text, ValueError for a total that is no number of rows.

    >>> VocabularyAxis("vocabulary", total=151936).total
    151936
    """

    name: str
    """The mesh axis."""
    total: int
    """V."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name: expected the name of a mesh axis, got {self.name!r}")
        object.__setattr__(self, "total", as_whole("total", self.total, 0))


@dataclass(frozen=True)
class Options:
    """Everything about a head that is no array: hashable, static under jit."""

    temperature: float = 1.0
    """The sampling temperature."""
    soft_cap: float | None = None
    """Gemma's final_logit_softcapping."""
    axis: VocabularyAxis | None = None
    """The mesh axis over which the rows are spread; None: every rank has all rows."""

    def __post_init__(self) -> None:
        if self.axis is not None and not isinstance(self.axis, VocabularyAxis):
            raise TypeError(f"vocabulary: expected a VocabularyAxis or None, got {type(self.axis).__name__}")
        object.__setattr__(self, "temperature", as_number("temperature", self.temperature))
        if self.soft_cap is not None:
            object.__setattr__(self, "soft_cap", as_number("soft_cap", self.soft_cap))
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature: expected a positive finite number, got {self.temperature}")
        if self.soft_cap is not None and not 0.0 < self.soft_cap < math.inf:
            raise ValueError(f"soft_cap: expected a positive finite number or None, got {self.soft_cap}")


class Head(NamedTuple):
    """The parameters of the head."""

    weight: Array
    """[V, H], or this rank's rows of it."""
    bias: Array | None
    """[V], or this rank's part."""


def wide(*arrays: Array | None) -> Any:
    """float32, or float64 if an array is."""
    return jnp.float64 if any(x is not None and x.dtype == jnp.float64 for x in arrays) else jnp.float32


def common(a: Array, b: Array) -> Any:
    """The dtype that holds both exactly, whatever jax_numpy_dtype_promotion allows."""
    return a.dtype if a.dtype == b.dtype else wide(a, b)


def check_head(hidden: Array, head: Head, tokens: Array) -> None:
    """TypeError or ValueError, naming the argument, unless hidden [..., H], the head and tokens [...] fit together."""
    named = (("hidden", hidden), ("lm_head", head.weight), ("tokens", tokens), ("bias", head.bias))
    for name, x in named:
        if not isinstance(x, jax.Array) and not (x is None and name == "bias"):
            raise TypeError(f"{name}: expected a jax array, got {type(x).__module__}.{type(x).__name__}")
        if name != "tokens" and x is not None and not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name}: expected a floating-point array, got {x.dtype}")
        if name != "tokens" and x is not None and x.dtype not in COMPUTED:
            raise TypeError(
                f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}; pass its astype(jnp.bfloat16)"
            )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"tokens: expected integer token ids, got {tokens.dtype}")
    weight, bias = head
    if hidden.ndim < 1:
        raise ValueError("hidden: expected shape [..., H], got []")
    if weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"lm_head: expected [V, H] with H = {hidden.shape[-1]} as in hidden {list(hidden.shape)}, got {list(weight.shape)}"
        )
    if tokens.shape != hidden.shape[:-1]:
        raise ValueError(f"tokens: expected {list(hidden.shape[:-1])}, hidden without its last axis, got {list(tokens.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected [V] = {list(weight.shape[:1])}, got {list(bias.shape)}")


def check_slots(layout: Layout, tokens: Array) -> None:
    """TypeError or ValueError unless `layout` is a layout of jax arrays with the shape of `tokens`."""
    check_layout(layout)
    mask = layout.valid
    if not isinstance(mask, jax.Array):
        raise TypeError(f"layout: expected a layout of jax arrays, got one of {type(mask).__module__}.{type(mask).__name__}")
    if tuple(tokens.shape) != tuple(layout.shape):
        raise ValueError(f"tokens: expected the layout's shape {list(layout.shape)}, got {list(tokens.shape)}")


def mesh_axes(*arrays: Any) -> frozenset[str]:
    """The mesh axes over which any of the arrays varies, as shard_map tracks them; none with check_vma=False."""
    return frozenset(axis for x in jax.tree.leaves(arrays) for axis in _axes_of(x))


def _axes_of(x: Any) -> frozenset[str]:
    kind: Any = jax.typeof(x)
    mat = getattr(kind, "mat", None)  # the name since jax 0.10; vma before and in some later releases
    found: frozenset[str] = getattr(kind, "vma", frozenset()) if mat is None else mat.varying
    return found


def varying(x: Any, axes: frozenset[str]) -> Any:
    """x (a pytree) as arrays that vary over the axes; the transpose sums gradients over them."""

    def cast(leaf: Array) -> Array:
        missing = tuple(sorted(axes - _axes_of(leaf)))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, x)


def first_row(head: Head, options: Options) -> Array | int:
    """The token id of this rank's first row."""
    return 0 if options.axis is None else lax.axis_index(options.axis.name) * len(head.weight)


def vocabulary_of(head: Head, options: Options) -> int:
    """V over all ranks."""
    return len(head.weight) if options.axis is None else options.axis.total


def token_ids(tokens: Array) -> Array:
    """[T] the ids as int32; ids that do not fit become −1, which is in no vocabulary, rather than some other token."""
    flat = tokens.reshape(-1)
    if jnp.iinfo(flat.dtype).max <= INT32_MAX:
        return flat.astype(jnp.int32)
    fits = (flat >= 0) & (flat <= INT32_MAX)
    return jnp.where(fits, jnp.where(fits, flat, 0).astype(jnp.int32), -1)


def tile(rows: Array, weight: Array, bias: Array | None, first: Array | int, options: Options) -> Array:
    """[n, m] logits z = cap(rows · weight + bias) / temperature; −∞ in columns beyond the vocabulary."""
    operand = common(rows, weight)
    z = product(rows.astype(operand), weight.astype(operand), (1, 1))
    if bias is not None:
        z = z + bias.astype(z.dtype)[None, :]
    if options.soft_cap is not None:
        z = options.soft_cap * jnp.tanh(z / options.soft_cap)
    if options.temperature != 1.0:
        z = z / options.temperature
    if options.axis is None:
        return z
    there = first + jnp.arange(len(weight), dtype=jnp.int32) < options.axis.total
    return jnp.where(there[None, :], z, -jnp.inf)


def product(a: Array, b: Array, over: tuple[int, int]) -> Array:
    """Σ over an axis of each, in float32 or float64.

    float32 operands are not rounded: by default XLA rounds them to TF32 on GPUs and to bfloat16 on TPUs, which changes
    log-probs by more than GSPO's clip range. Products of two float16 or bfloat16 numbers are exact in float32.
    """
    kind = wide(a, b)
    precision = lax.Precision.HIGHEST if a.dtype == kind else None
    axes = (((over[0],), (over[1],)), ((), ()))
    return lax.dot_general(a, b, axes, precision=precision, preferred_element_type=kind)


def slope(z: Array, options: Options) -> Array | float:
    """∂z/∂(rows · weight), elementwise."""
    if options.soft_cap is None:
        return 1.0 / options.temperature
    tanh = jnp.where(z > -jnp.inf, z, 0.0) * (options.temperature / options.soft_cap)
    return (1.0 - tanh * tanh) / options.temperature
