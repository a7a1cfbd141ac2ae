"""One process per rank, forked from a server that has imported what they need."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def on_ranks(main: Callable[[int, str], None], world: int, folder: Path) -> list[dict[str, Any]]:
    """What `main(rank, folder)` saved as `<rank>.pt`, by rank.

    The server imports PyTorch, and the file of the first such `main`, once, which takes longer than what the processes do. It
    ends with this process.
    """
    multiprocessing.set_forkserver_preload(["support.lm_head.ranks", "support.lm_head.distributed_heads", main.__module__])
    mp.start_processes(main, (str(folder),), world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]
