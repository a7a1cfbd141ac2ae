"""What is checked before JAX sees an argument: its own errors name no argument of ours."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gspo_core import PerToken
from gspo_core.backend import check_array, check_flag


def check_arrays(**named: Any) -> None:
    """TypeError, by name, for an argument that is neither an array for JAX nor None; of `PerToken` its values are checked.

    JAX takes its own arrays and NumPy's, of numbers and booleans.
    """
    for name, given in named.items():
        x = given.values if isinstance(given, PerToken) else given
        if x is None:
            continue
        check_array(name, x)
        if not isinstance(x, (jax.Array, np.ndarray, np.generic)):
            raise TypeError(f"{name}: expected an array of JAX or NumPy, got {type(x).__module__}.{type(x).__name__}")
        if not _is_of_numbers(x.dtype):
            raise TypeError(f"{name}: expected an array of numbers, got dtype {x.dtype}")


def _is_of_numbers(dtype: Any) -> bool:
    """Whether JAX computes with it: also bfloat16, which NumPy counts as no number, but not timedelta64, which it does."""
    return any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, np.number)) and not jnp.issubdtype(dtype, np.timedelta64)


def check_flags(**named: Any) -> None:
    """TypeError, by name, for a flag that is neither True nor False."""
    for name, flag in named.items():
        check_flag(name, flag)
