"""Time by turns, and peak memory in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import platform
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

MIB = 2**20


class Seconds(NamedTuple):
    """One run."""

    cpu: float
    """Of the whole process, user and system: the kernel's work on fresh pages counts, waiting for a core does not."""
    wall: float


def by_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Seconds]]:
    """Every round runs all of them, in this order or the reverse: a change of the machine's speed meets all."""
    times: dict[str, list[Seconds]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in runs if turn % 2 == 0 else reversed(runs):
            gc.collect()
            cpu, wall = time.process_time(), time.perf_counter()
            result = runs[name]()
            times[name].append(Seconds(time.process_time() - cpu, time.perf_counter() - wall))
            del result
    return times


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
    }


def ratios(ours: list[Seconds], theirs: list[Seconds]) -> dict[str, float]:
    """Our CPU time over theirs, round by round."""
    return spread([a.cpu / b.cpu for a, b in zip(ours, theirs, strict=True)])


def in_child(work: Callable[[], Any]) -> Any:
    """Result of `work`, from a process forked for it alone; RuntimeError if that fails."""
    gc.collect()
    _give_back_free_memory()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(work(), pipe)
            code = 0
        except BaseException:  # the parent hears of it by the exit code
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        sent = pipe.read()
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise RuntimeError(f"the measuring process ended with status {os.waitstatus_to_exitcode(status)}")
    return pickle.loads(sent)


def peak_of(run: Callable[[], Any]) -> tuple[Any, float]:
    """(what it returns, MiB by which the process's resident memory rose at most). Call in a fresh child: see `in_child`."""
    _give_back_free_memory()
    before = _resident("VmRSS")
    # 5 sets the high-water mark back to the present size (Linux, proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    result = run()
    return result, (_resident("VmHWM") - before) / MIB


def machine() -> dict[str, Any]:
    """Where it was measured."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "processor": models[0] if models else platform.processor(),
        "processors": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: peak memory needs Linux")


def _give_back_free_memory() -> None:
    """Otherwise a run would find freed memory in the heap, use it, and seem to need less."""
    ctypes.CDLL(None).malloc_trim(0)
