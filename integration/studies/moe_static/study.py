"""How much of a small mixture of experts' log-ratio noise is routing, and what replay takes away: a static study.

    python -m integration.studies.moe_static.study --seeds 8 --jobs 2 --out runs/moe-static
    python -m integration.studies.moe_static.study --size large --device cuda --seeds 4 --out runs/moe-static
    python -m integration.studies.moe_static.study --tables      # docs/studies/moe-static.md: its tables and pictures

A small Qwen3-MoE and a dense Qwen3 of the same active width write responses. Sampling engines with the same weights score
them otherwise, and the trainer takes optimizer steps. Log ratios are measured with free routing, with routes replayed (of
the engine, R3; of the old policy, R2), and in the dense model. It is a toy of the mechanism: weights, task and router noise
are not those of a real model, and the sizes of the effects do not carry over.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from integration.shared.errors import UserError
from integration.studies.moe_static import page as moe_static_page
from integration.studies.moe_static.models import SIZES, Size
from integration.studies.moe_static.seed import measure


@dataclass(frozen=True)
class Options:
    """What is run."""

    size: Literal["small", "large"] = "small"
    """small: a CPU's; large: half a billion parameters under bfloat16 autocast, for a GPU."""
    seeds: int = 8
    jobs: int = 1
    """Seeds at a time; one process with one thread each."""
    device: Literal["cpu", "cuda"] = "cpu"
    out: Path = Path("runs/moe-static")
    """Folder of a JSON file per seed. A seed that has its file is not run again."""
    tables: bool = False
    """Run nothing: write the tables and pictures of docs/studies/moe-static.md from the committed results."""


def run(options: Options) -> list[Path]:
    """The files of all seeds, once they are there; prints a line for each and how long the rest will take."""
    options.out.mkdir(parents=True, exist_ok=True)
    size = SIZES[options.size]
    paths = [options.out / f"{options.size}-{seed}.json" for seed in range(options.seeds)]
    for path in filter(Path.exists, paths):
        if json.loads(path.read_text(encoding="utf-8"))["size"] != asdict(size):
            raise UserError(f"--out: {path} is of another model or another batch; move it away, or choose another folder")
    missing = [seed for seed, path in enumerate(paths) if not path.exists()]
    print(f"{len(paths) - len(missing)} of {len(paths)} seeds are there", flush=True)
    for done, result in enumerate(_measured(options, size, missing), start=1):
        path = paths[result["seed"]]
        path.with_suffix(".part").write_text(_json(result), encoding="utf-8")
        os.replace(path.with_suffix(".part"), path)
        seconds = result["made_with"]["seconds"]
        rest = -(-(len(missing) - done) // options.jobs) * seconds / 60
        print(f"{path}: {seconds:.0f} s; about {rest:.1f} minutes for the {len(missing) - done} that are left", flush=True)
    return paths


def _measured(options: Options, size: Size, seeds: list[int]) -> Iterator[dict[str, Any]]:
    """In the order of seeds."""
    device = torch.device(options.device)
    if options.jobs == 1:
        yield from (measure(size, seed, device) for seed in seeds)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(measure, [size] * len(seeds), seeds, [device] * len(seeds))


def _json(result: dict[str, Any]) -> str:
    """With six digits."""

    def rounded(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: rounded(value) for key, value in x.items()}
        if isinstance(x, list):
            return [rounded(value) for value in x]
        return float(f"{x:.6g}") if isinstance(x, float) else x

    return json.dumps(rounded(result), indent=1) + "\n"


def main(options: Options) -> None:
    """Run, or write the page."""
    if options.tables:
        moe_static_page.write()
    else:
        torch.set_num_threads(1)  # what numbers come out depends on it, in the last digits
        run(options)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except UserError as error:
        sys.exit(f"error: {error}")
