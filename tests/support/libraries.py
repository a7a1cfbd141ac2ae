"""The one table of array libraries: how NumPy data gets in and out, and how a function is made to run.

A further library is a further line. docs/libraries.md says which libraries cannot be here, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import array_api_strict
import dask
import dask.array
import jax
import numpy as np
import pytest
import torch

# Nothing is promoted or broadcast by accident.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def _as_it_is(f: Callable[..., Any]) -> Callable[..., Any]:
    return f


@dataclass(frozen=True)
class Library:
    """An array library under test, eager or compiled."""

    name: str
    """Its id in test names."""
    array: Callable[[Any], Any]
    """From a NumPy array, dtype kept, memory not shared."""
    numpy: Callable[[Any], np.ndarray]
    """To a NumPy array, dtype kept."""
    run: Callable[[Callable[..., Any]], Callable[..., Any]] = _as_it_is
    """How a function of arrays (and tuples of arrays) is made to run: as it is, or compiled."""
    precision: Callable[[Any], AbstractContextManager[Any]] = nullcontext
    """Where the library computes in this dtype: JAX has no float64 unless it is told to."""
    compiles: bool = False
    """Whether `run` takes seconds."""
    slow: bool = False
    """Whether each call takes a tenth of a second."""


def _torch_compile(f: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()  # graphs belong to the code, not to the closure: eight of them would be refused
    return torch.compile(f, fullgraph=True, dynamic=True, backend="eager")


def _halves(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of pieces, two of them per axis: each piece is a task of every operation."""
    return tuple((n + 1) // 2 for n in shape)


NUMPY = Library("numpy", np.array, np.asarray)
STRICT = Library(
    "array_api_strict",
    lambda x: array_api_strict.asarray(np.array(x), copy=True),
    np.from_dlpack,
)
TORCH = Library("torch", lambda x: torch.tensor(np.asarray(x)), lambda x: x.detach().numpy())
COMPILED_TORCH = replace(TORCH, name="torch.compile", run=_torch_compile, compiles=True)
JAX = Library(
    "jax", lambda x: jax.numpy.array(np.asarray(x)), np.asarray, precision=lambda dtype: jax.enable_x64(dtype == np.float64)
)
COMPILED_JAX = replace(JAX, name="jax.jit", run=jax.jit, compiles=True)
DASK = Library(
    "dask",
    lambda x: dask.array.from_array(np.array(x), chunks=_halves(np.shape(x))),  # rows and sequences are cut into pieces
    np.asarray,
    run=lambda f: lambda *arrays: dask.compute(*f(*arrays), scheduler="synchronous"),
    slow=True,
)

LIBRARIES = [NUMPY, STRICT, TORCH]
"""Those that are quick at every new shape, for random batches."""
EAGER = [*LIBRARIES, JAX]
"""For tests of few shapes."""
EVERYWHERE = [NUMPY, STRICT, TORCH, COMPILED_TORCH, JAX, COMPILED_JAX, DASK]
"""For batches of one shape."""
on_every_library = pytest.mark.parametrize("library", EAGER, ids=lambda library: library.name)
