"""What is checked before JAX sees an argument: its own errors name no argument of ours."""

from __future__ import annotations

from typing import Any

from gspo_core import PerToken
from gspo_core.backend import check_array, check_flag


def check_arrays(**named: Any) -> None:
    """TypeError, by name, for an argument that is neither an array nor None; of `PerToken` its values are checked."""
    for name, x in named.items():
        if x is not None:
            check_array(name, x.values if isinstance(x, PerToken) else x)


def check_flags(**named: Any) -> None:
    """TypeError, by name, for a flag that is neither True nor False."""
    for name, flag in named.items():
        check_flag(name, flag)
