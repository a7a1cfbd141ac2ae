"""The training script in several processes, with the environment that torchrun gives to each."""

from __future__ import annotations

import socket
from pathlib import Path

from support.runs.forked import Done, Started
from support.runs.scripts import environment


def started_on(count: int, cache: Path, *options: str) -> list[Started]:
    """Start it in so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    arguments = ["--cache-dir", str(cache), *options]
    return [Started("train_torch.py", arguments, {**environment(), **world, **place}) for place in places]


def run_on(count: int, cache: Path, *options: str) -> list[Done]:
    """Run it to the end in so many processes."""
    return [process.done() for process in started_on(count, cache, *options)]
