"""The processes that torchrun started, as `Ranks`, and the mesh that they form."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from integration.on_torch.parallel.context import Context
from integration.on_torch.parallel.share import Share
from integration.options.config import Config
from integration.options.errors import ProcessLost, UserError
from integration.shared.ranks import OneProcess, Ranks

LOST = ("closed by peer", "reset by peer", "broken pipe", "timed out", "timeout", "nccl", "gloo", "connection refused")
"""Parts of what a collective raises when a process is gone or does not answer."""


class World:
    """Ranks on a process group."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.local: Callable[[], AbstractContextManager[None]] = nullcontext
        self._device = device

    def gather(self, own: Any) -> list[Any]:
        """As in Ranks."""
        found: list[Any] = [None] * self.count
        with naming_lost_ranks():
            dist.all_gather_object(found, own)
        return found

    def any(self, flag: bool) -> bool:
        """As in Ranks."""
        votes = torch.tensor(int(flag), device=self._device)
        with naming_lost_ranks():
            dist.all_reduce(votes, dist.ReduceOp.MAX)
            return bool(votes)


def started_by_torchrun() -> bool:
    """Whether this process is one of those of a torchrun, or of another launcher that sets its variables."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and the place of this one."""

    ranks: Ranks = field(default_factory=OneProcess)
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)
    mesh: DeviceMesh | None = None
    """[data, context, vocabulary] all processes: responses are shared out along `data`. None for one process."""

    @staticmethod
    def alone(config: Config) -> Processes:
        """One process."""
        _require_none(config)
        return Processes(device=_device(config))

    @property
    def share(self) -> Share:
        """What of each mini-batch is this process's."""
        return Share() if self.mesh is None else Share(self.mesh.get_local_rank("data"), self.mesh.size(0))

    @property
    def context(self) -> Context | None:
        """The processes that share the tokens of a response; None if each has all of them."""
        return None if (group := self._group("context")) is None else Context(group)

    @property
    def vocabulary(self) -> dist.ProcessGroup | None:
        """The processes that share the rows of the head; None if each has all of them."""
        return self._group("vocabulary")

    def _group(self, name: str) -> dist.ProcessGroup | None:
        """None for a group of one."""
        return None if self.mesh is None or self.mesh[name].size() == 1 else self.mesh.get_group(name)

    def described(self) -> str:
        """For the line that says how a run begins."""
        if self.mesh is None:
            return ""
        sizes = zip(self.mesh.mesh_dim_names or (), self.mesh.shape, strict=True)
        return f" each, {self.ranks.count} processes: " + " × ".join(f"{name} {size}" for name, size in sizes)


@contextmanager
def joined(config: Config) -> Iterator[Processes]:
    """All processes that torchrun started, or this one alone. Inside, only process 0 prints to standard output.

    UserError for options that need several processes, or a device that is not there.
    """
    if not started_by_torchrun():
        yield Processes.alone(config)
        return
    device = _device(config)
    shape = _shape(config)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        with _silent() if dist.get_rank() else nullcontext():
            mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "context", "vocabulary"))
            yield Processes(World(device), device, mesh)
            with suppress(ProcessLost), naming_lost_ranks():  # one that is gone now had nothing left to do
                dist.barrier()  # a process that leaves early closes the connections of the others
    finally:
        dist.destroy_process_group()


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """ProcessLost, which says that another process is gone, in place of what a collective raises then."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not dist.is_initialized() or not any(part in text.lower() for part in LOST):
            raise
        first = text.strip().splitlines()[0][:200]
        raise ProcessLost(f"another process of this run ended, or does not answer any more ({first})") from error


def _device(config: Config) -> torch.device:
    if config.device != "cuda":
        return torch.device(config.device)
    if not torch.cuda.is_available():
        raise UserError("--device cuda: this PyTorch sees no CUDA device")
    if not started_by_torchrun():
        return torch.device("cuda")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise UserError(
            f"--device cuda: process {local} of this machine has no GPU of its own: {torch.cuda.device_count()} are here"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _require_none(config: Config) -> None:
    """UserError for options that one process alone cannot honour."""
    given = {"parallel": config.parallel is not None, "context-parallel": config.context_parallel > 1,
             "vocabulary-parallel": config.vocabulary_parallel > 1}  # fmt: skip
    for option in (name for name, is_given in given.items() if is_given):
        if config.resume is not None:
            print(f"--{option}: the run had several processes so far, and goes on in one, which computes the same")
            return
        raise UserError(
            f"--{option}: needs several processes; start the script as `torchrun --nproc-per-node 2 {sys.argv[0]} ...`"
        )


def _shape(config: Config) -> tuple[int, int, int]:
    """Of the mesh; UserError if the processes cannot form it, and for what only one process can do."""
    if config.router_noise and os.environ["WORLD_SIZE"] != "1":
        raise UserError(f"--router-noise: works in a run of one process, and torchrun started {os.environ['WORLD_SIZE']}")
    count, split = int(os.environ["WORLD_SIZE"]), config.context_parallel * config.vocabulary_parallel
    if count % split:
        raise UserError(
            f"--context-parallel, --vocabulary-parallel: {split} processes share a response, and the {count} that torchrun "
            "started are no multiple of that"
        )
    return count // split, config.context_parallel, config.vocabulary_parallel


@contextmanager
def _silent() -> Iterator[None]:
    """What is printed goes nowhere, bars and warnings, too: process 0 prints the same. An error is printed when it is over."""
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        sys.stdout = sys.stderr = nowhere
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
