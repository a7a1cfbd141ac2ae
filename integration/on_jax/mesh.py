"""Devices in a mesh, data × model, and what lies where on it. XLA inserts the exchanges between devices.

A parameter is cut over `model` by a rule on its name and shape, or every device has all of it; its gradient and the
optimizer's moments lie as it does. The rows of a batch are cut over `data`. Numbers differ from those of one device in their
last digits only: rows that fill up a batch are masked, the loss divides by a count of the whole batch, and random numbers
depend on a token's row and column (`jax_threefry_partitionable`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from integration.on_jax.shape import Shape
from integration.options.errors import UserError

Array = Any
DATA, MODEL = "data", "model"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Whose units are whole heads."""
BY_OUTPUT = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "head")
"""Layers x W + b whose outputs are cut."""
BY_INPUT = ("o_proj", "down_proj")
"""Layers whose inputs are cut: the sum of their products is the exchange of an attention layer or an MLP."""


@dataclass(frozen=True)
class Placement:
    """Where the arrays of a model lie. A value, static under jit; without a mesh every function returns what it is given."""

    mesh: Mesh | None = None
    head_dim: int = 1
    kv_heads: int = 1

    @property
    def data(self) -> int:
        """Devices over which rows are cut."""
        return 1 if self.mesh is None else int(self.mesh.shape[DATA])

    @property
    def model(self) -> int:
        """Devices over which parameters are cut."""
        return 1 if self.mesh is None else int(self.mesh.shape[MODEL])

    def parameters(self, tree: Any) -> Any:
        """Parameters, or a tree that has their names at the ends of its paths: gradients, an optimizer's state."""
        return jax.tree_util.tree_map_with_path(lambda path, x: self._put(x, self.spec(names_of(path), np.shape(x))), tree)

    def rows(self, tree: Any) -> Any:
        """Arrays whose first axis is the batch; scalars, which every device has."""
        return jax.tree.map(lambda x: self._put(x, row_spec(x)), tree)

    def head(self, lm_head: Array) -> Array:
        """[V, H] the output embedding."""
        return self._put(lm_head, P(MODEL) if lm_head.shape[0] % self.model == 0 else P())

    def cache(self, cache: Any) -> Any:
        """Keys and values [N, L, kv heads, D] of every layer."""
        heads = MODEL if self.kv_heads % self.model == 0 else None
        return jax.tree.map(lambda x: self._put(x, P(DATA, None, heads)), cache)

    def spec(self, names: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """How a parameter is cut: P() where its rule has none for its shape, since each device must get as many units."""
        axis = cut_axis(names, len(shape))
        unit = self.head_dim if any(name in ATTENTION for name in names) else 1
        if axis is None or shape[axis] % (unit * self.model):
            return P()
        return P(*[None] * axis, MODEL)

    def _put(self, x: Array, spec: P) -> Array:
        if self.mesh is None:
            return x
        where = NamedSharding(self.mesh, spec)
        return lax.with_sharding_constraint(x, where) if isinstance(x, jax.core.Tracer) else jax.device_put(x, where)


def placement(mesh: Mesh | None, shape: Shape) -> Placement:
    """Of a model's arrays."""
    return Placement(mesh, shape.head_dim, shape.num_key_value_heads)


def mesh_of(data: int, model: int) -> Mesh | None:
    """A mesh of the first data · model devices; None for one device, which needs none. UserError if there are fewer."""
    devices, wanted = jax.devices(), data * model
    if jax.process_count() > 1:
        raise UserError(f"--data-parallel: the JAX script is one process for all devices, JAX has {jax.process_count()}")
    if wanted > len(devices):
        on_cpu = f"; on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count={wanted} makes as many"
        raise UserError(
            f"--data-parallel {data} --model-parallel {model}: expected {wanted} devices, JAX sees {len(devices)} of kind "
            f"{devices[0].platform}{on_cpu if devices[0].platform == 'cpu' else ''}"
        )
    if wanted == 1:
        if len(devices) > 1:
            print(f"one of {len(devices)} devices is used: --data-parallel and --model-parallel use more")
        return None
    return jax.make_mesh((data, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2, devices=devices[:wanted])


def cut_axis(names: tuple[str, ...], ndim: int) -> int | None:
    """The axis of a parameter that is cut over `model`; None if every device has all of it, as of norms and of a router.

    >>> cut_axis(("layers", "0", "self_attn", "q_proj", "kernel"), 2), cut_axis(("mlp", "down_proj", "kernel"), 2)
    (1, 0)
    >>> cut_axis(("mlp", "experts", "down_proj"), 3), cut_axis(("mlp", "down_proj", "bias"), 1), cut_axis(("count",), 0)
    (0, None, None)
    """
    if ndim == 0:
        return None
    if "experts" in names or "embed_tokens" in names:  # whole experts; rows of the vocabulary
        return 0
    if any(name in BY_OUTPUT for name in names):
        return ndim - 1
    return 0 if ndim == 2 and any(name in BY_INPUT for name in names) else None


def names_of(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along a path of `jax.tree_util`."""
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path)


def row_spec(x: Any) -> P:
    """How an array of a batch is cut."""
    return P(DATA) if np.ndim(x) else P()


def in_host_memory(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """Inside, for a mesh, new arrays are the host's: a model that is cut need not fit into one device whole."""
    try:
        return nullcontext() if mesh is None else jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS=cuda has no CPU beside the GPUs
        return nullcontext()
