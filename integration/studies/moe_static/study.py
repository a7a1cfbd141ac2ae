"""Share of routing in the log-ratio noise of a small mixture of experts, and the effect of replay: a static study.

    python -m integration.studies.moe_static.study --seeds 8 --jobs 2 --out runs/moe-static
    python -m integration.studies.moe_static.study --size large --device cuda --seeds 4 --out runs/moe-static
    python -m integration.studies.moe_static.study --tables      # docs/studies/moe-static.md: its tables and pictures

A small Qwen3-MoE and a dense Qwen3 of the same active width write responses. Sampling engines with the same weights give
them other log-probs, and the trainer takes optimizer steps. Log ratios are measured with free routing, with routes replayed (of
the engine, R3; of the old policy, R2), and in the dense model. It is a toy of the mechanism: weights, task and router noise
are not those of a real model, and the sizes of the effects do not carry over.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from integration.options.errors import UserError
from integration.options.ranges import JOBS, SECONDS, Range, check_values
from integration.records.json_lines import Row
from integration.studies.moe_static import page
from integration.studies.moe_static.models import SIZES, Size
from integration.studies.moe_static.results import FILE
from integration.studies.moe_static.seed import measure
from integration.studies.runner import command_line, run_study
from integration.studies.worker import Run


@dataclass(frozen=True)
class Options:
    """Options of the study."""

    size: Literal["small", "large"] = "small"
    """small: for a CPU; large: 0.16 billion parameters under bfloat16 autocast, for a GPU."""
    seeds: int = 8
    jobs: int = 1
    """Processes, of one thread each; one seed at a time in each."""
    time_limit: float | None = None
    """Seconds after which to stop; the same command then does the seeds that are missing."""
    device: Literal["cpu", "cuda"] = "cpu"
    out: Path = Path("runs/moe-static")
    """Folder for results.jsonl. Seeds that are in it are not run again."""
    tables: bool = False
    """Run nothing: write the tables and pictures of docs/studies/moe-static.md from the committed results."""

    def __post_init__(self) -> None:
        check_values(self, {"seeds": Range(1, 10**6), "jobs": JOBS, "time_limit": SECONDS})


def measure_once(settings: Row) -> Row:
    """One seed, from settings as `runs_of` makes them."""
    row: Row = rounded(measure(Size(**settings["size"]), settings["seed"], torch.device(settings["device"])))
    return row


def runs_of(options: Options) -> list[Run]:
    """One for each seed."""
    size = asdict(SIZES[options.size])
    return [
        Run(f"{options.size}-{seed}", {"size": size, "seed": seed, "device": options.device}) for seed in range(options.seeds)
    ]


def rounded(x: Any) -> Any:
    """Plain values, with six significant digits."""
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    if isinstance(x, list):
        return [rounded(value) for value in x]
    return float(f"{x:.6g}") if isinstance(x, float) else x


def main(options: Options) -> int:
    """Run, or write the page. Returns the exit status."""
    if options.tables:
        page.write()
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device")
    results = options.out / FILE
    return run_study(measure_once, runs_of(options), results, jobs=options.jobs, time_limit=options.time_limit).status


if __name__ == "__main__":
    command_line(main, Options, __doc__)
