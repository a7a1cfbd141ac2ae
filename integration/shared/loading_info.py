"""What transformers reports of a load: weights that a file does not have are random numbers, and only a warning there."""

from __future__ import annotations

from typing import Any

from integration.options.errors import UserError


def require_all_weights(info: dict[str, Any], source: str) -> None:
    """UserError if a weight of the model was missing or of another shape; `info` is of `output_loading_info=True`."""
    misshapen = [key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]]  # with both shapes, or without
    lacking = sorted(map(str, {*info["missing_keys"], *misshapen}))
    if lacking:
        names = ", ".join(lacking[:3])
        raise UserError(f"--model: the weights of {source} do not fit its config: {names} missing or of another shape")
