"""Values that are wrong for every argument of ours, and what a refusal looks like."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# Wrong for whatever argument: no list of nothing, no sixth axis and no text is what any of them wants.
WRONG: dict[str, Any] = {
    "text": "text",
    "object": object(),
    "dict": {"a": 1},
    "set": {1},
    "ragged": [[1.0], [1.0, 2.0]],
    "complex": 1 + 2j,
    "nan": float("nan"),
    "-inf": float("-inf"),
    "-1e30": -1e30,
    "class": np.ndarray,
    "class of torch": torch.Tensor,
    "module": np,
    "texts": np.array(["a", "b"]),
    "objects": np.array([None, object()]),
    "six axes": np.zeros((1, 1, 1, 1, 1, 7)),
    "complex array": np.full((2, 3), 1j),
    "torch": torch.zeros(7, 5, 3),
    "times": np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"),
    "durations": np.full((2, 3), np.timedelta64(1, "s")),
    "bytes": b"bytes",
}


def refusal(call: Callable[[], Any]) -> Exception | None:
    """What a call raises, of whatever kind."""
    try:
        call()
    except Exception as error:
        return error
    return None


def named_first(error: Exception | None, names: set[str]) -> bool:
    """Whether this is a TypeError or ValueError that begins with one of these names, or with several."""
    head = re.match(r"\w+(?:, \w+)*(?=: )", str(error))
    return type(error) in {TypeError, ValueError} and head is not None and set(head[0].split(", ")) <= names
