"""What is checked at the door, by every function that takes log-probs and a layout."""

from __future__ import annotations

import math
from typing import Any

from gspo_core.types import Array, Layout, Namespace, Reduction

from .array import at_least_float32, detached, is_integer, is_of, is_real, number_at_hand, scalar, shape_of
from .checks import as_number, as_positive, check_flag, check_positive
from .units import at_least_one, own_count


def check_layout(layout: Any) -> None:
    """Refuses everything but a layout.

    Returns: nothing.

    Raises: TypeError, which also names the base class to a layout of one's own that does not derive from it.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> check_layout(Padded(np.array([[True]])))
    """
    if not isinstance(layout, Layout):
        own = "; a layout of your own derives from gspo_core.layouts.Layout" if hasattr(layout, "spread") else ""
        raise TypeError(f"layout: expected a layout such as Padded(mask), got {_kind(layout)}{own}")


def _kind(x: Any) -> str:
    return f"the class {x.__name__}" if isinstance(x, type) else type(x).__name__


def check_old_policy(old_logp: Array | None, on_policy: bool) -> None:
    """TypeError unless the flag is one, ValueError unless old log-probs are given or said to be the current ones."""
    check_flag("on_policy", on_policy)
    if (old_logp is None) != on_policy:
        raise ValueError(
            "old_logp: pass the old policy's log-probs, or old_logp=None together with on_policy=True "
            f"(got old_logp={'None' if old_logp is None else 'an array'}, on_policy={on_policy})"
        )


def log_probs(xp: Namespace, layout: Layout, allow_low_precision: bool, **named: Array) -> list[Array]:
    """The named token arrays, checked, in one common dtype (float32, or float64 if one is); masked slots are 0.

    They are data from here on: nothing that is computed from them belongs to the graph of an automatic differentiation.
    """
    return [layout.select(x) for x in unselected_log_probs(xp, layout, allow_low_precision, **named)]


def unselected_log_probs(xp: Namespace, layout: Layout, allow_low_precision: bool, **named: Array) -> list[Array]:
    """`log_probs` with masked slots as they came."""
    check_flag("allow_low_precision", allow_low_precision)
    checked = [_log_prob(xp, name, x, layout, allow_low_precision) for name, x in named.items()]
    if any(x.dtype == xp.float64 for x in checked):
        checked = [xp.astype(x, xp.float64) for x in checked]
    return checked


def _log_prob(xp: Namespace, name: str, x: Array, layout: Layout, allow_low_precision: bool) -> Array:
    if shape_of(x) != layout.shape:
        raise ValueError(f"{name}: expected the layout's shape {list(layout.shape)}, got {list(shape_of(x))}")
    if not is_real(xp, x):
        raise TypeError(f"{name}: expected real floating-point log-probs, got dtype {x.dtype}")
    if x.dtype not in (xp.float32, xp.float64) and not allow_low_precision:
        raise TypeError(
            f"{name}: expected float32 or float64, got {x.dtype}, which cannot resolve a clip range of 3e-4. Compute "
            "log-probs in float32, or pass allow_low_precision=True if you accept the rounding"
        )
    return at_least_float32(xp, detached(x))


def divisor(xp: Namespace, reduction: Reduction, denominator: float | Array | None, layout: Layout, like: Array) -> Array:
    """[] what a sum is divided by: the denominator that was given, or the batch's own count (at least 1)."""
    if denominator is None:
        return at_least_one(xp, own_count(reduction, layout, like), like)
    denominator = as_positive("denominator", denominator)
    if not isinstance(denominator, (int, float)) and not is_of(xp, denominator):
        denominator = as_number("denominator", denominator)
        check_positive("denominator", denominator)
    if isinstance(denominator, (int, float)):
        return scalar(xp, float(denominator), like)
    if not (is_real(xp, denominator) or is_integer(xp, denominator)):
        raise TypeError(f"denominator: expected a real number, got dtype {denominator.dtype}")
    total = xp.astype(detached(denominator), like.dtype)
    known = number_at_hand(xp, total)
    if known is None:  # refused where it is: every number of the loss is NaN
        return xp.where((total > 0) & (total < math.inf), total, math.nan)
    check_positive("denominator", known)
    return total
