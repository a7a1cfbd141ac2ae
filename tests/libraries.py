"""The one table of array libraries: how NumPy data gets in and out. A further library is a further line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_strict
import numpy as np
import torch


@dataclass(frozen=True)
class Library:
    """An array library under test."""

    name: str
    """Its id in test names."""
    array: Callable[[Any], Any]
    """From a NumPy array, dtype kept, memory not shared."""
    numpy: Callable[[Any], np.ndarray]
    """To a NumPy array, dtype kept."""


NUMPY = Library("numpy", np.array, np.asarray)
STRICT = Library(
    "array_api_strict",
    lambda x: array_api_strict.asarray(np.array(x), copy=True),
    np.from_dlpack,
)
TORCH = Library("torch", lambda x: torch.tensor(np.asarray(x)), lambda x: x.detach().numpy())

LIBRARIES = [NUMPY, STRICT, TORCH]
