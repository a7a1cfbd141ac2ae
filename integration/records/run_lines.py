"""What every line of a run's JSON lines has: a file that was edited is refused before a run goes on with it."""

from __future__ import annotations

from pathlib import Path

from integration.options.errors import UserError
from integration.records.json_lines import Row

NUMBER = (int, float)
NEEDED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "metrics.jsonl": {
        "step": int,
        **dict.fromkeys(("reward", "response_length", "clip_fraction", "clip_low", "clip_high"), NUMBER),
        **dict.fromkeys(("max_abs_log_s", "skipped_steps"), NUMBER),
        "grad_norm": (*NUMBER, type(None)),
        **dict.fromkeys(("log_s", "by_mini_batch"), list),
    },
    "evaluations.jsonl": {
        "step": int,
        **dict.fromkeys(("sampled_accuracy", "greedy_accuracy"), NUMBER),
        **dict.fromkeys(("sampled", "greedy"), list),
    },
}
"""What the report reads in every line."""


def require_whole_lines(file: Path, rows: list[Row]) -> None:
    """UserError for the first line of a file of NEEDED in which something is missing, or of another type."""
    for number, row in enumerate(rows, start=1):
        for key, kinds in NEEDED[file.name].items():
            if key not in row or not isinstance(row[key], kinds):
                what = "a step, a whole number" if key == "step" else f"its {key}"
                raise UserError(
                    f"{file}: line {number} is damaged: expected {what}, got {row.get(key)!r:.40}; mend it, or restore "
                    "the file from a copy"
                )
