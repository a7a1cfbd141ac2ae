"""One process per rank, forked from a server that has imported what they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from support.runs.server import started_server


def on_ranks(main: Callable[[int, str], None], world: int, folder: Path) -> list[dict[str, Any]]:
    """What `main(rank, folder)` saved as `<rank>.pt`, by rank.

    The server imports PyTorch once, which takes longer than what the processes do.
    """
    started_server()
    mp.start_processes(main, (str(folder),), world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]
