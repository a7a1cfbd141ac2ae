"""A line of a run's metrics."""

from __future__ import annotations

from typing import Any


def metrics_row(step: int, **changes: Any) -> dict[str, Any]:
    """A line of metrics."""
    row = {
        "step": step,
        "reward": 0.5,
        "response_length": 5.0,
        "clip_fraction": 0.25,
        "clip_low": 0.2,
        "clip_high": 0.05,
        "max_abs_log_s": 0.125,
        "skipped_steps": 1,
        "grad_norm": None,
        "by_mini_batch": [{"clip_fraction": 0.0, "log_s_rms": 0.0}],
        "log_s": [0.01, -0.02],
    }
    return {**row, **changes}
