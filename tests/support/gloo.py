"""Ranks of one process with torch's own gloo between them: a thread and a process group each, and no process is started."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
import torch.distributed as dist


@cache
def gloo_ranks(count: int) -> tuple[dist.ProcessGroup, ...]:
    """The process groups of `count` ranks that see each other; made once."""
    store = dist.HashStore()
    with ThreadPoolExecutor(count) as pool:
        return tuple(pool.map(lambda rank: _group(store, rank, count), range(count)))


def on_gloo(count: int, work: Callable[[int, dist.ProcessGroup], Any]) -> list[Any]:
    """`work(rank, its group)` on all ranks at once; what each returns."""
    groups = gloo_ranks(count)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda rank: work(rank, groups[rank]), range(count)))


def _group(store: dist.HashStore, rank: int, count: int) -> dist.ProcessGroup:
    group = dist.ProcessGroup(dist.PrefixStore(f"{count} ranks", store), rank, count)
    gloo = dist.ProcessGroupGloo(dist.PrefixStore(f"{count} ranks, gloo", store), rank, count, datetime.timedelta(seconds=60))
    group._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, gloo)
    return group
