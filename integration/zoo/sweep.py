"""Every family in a process of its own, with a time limit: one that crashes or hangs is one row."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import resource
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from integration.tasks.task import Task
from integration.zoo.trial import Trial, sweep_task, try_family

SECONDS = 120.0
"""A family's time limit."""
MEMORY = 8 * 2**30
"""A family's memory, bytes: one whose sizes are not tiny is not built."""


def families() -> list[str]:
    """Names of all families that the installed transformers calls causal language models, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def sweep(names: Iterable[str], seconds: float = SECONDS) -> Iterator[Trial]:
    """One `Trial` for each name, in their order. Processes are forked: transformers is imported once."""
    torch.set_num_threads(1)
    task = sweep_task()
    for name in names:
        yield in_own_process(name, task, seconds)


def in_own_process(family: str, task: Task, seconds: float) -> Trial:
    """`try_family` in a fork; a row that says so if it dies or takes longer."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(family, task, sending))
    process.start()
    sending.close()
    try:
        if receiving.poll(seconds):
            return Trial(**receiving.recv())
        return Trial(family, "out of time", f"more than {seconds:g} s", seconds=seconds)
    except EOFError:
        process.join()
        return Trial(family, "traceback", f"the process died with status {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _child(family: str, task: Task, sending: Connection) -> None:
    logging.set_verbosity_error()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        sending.send(dataclasses.asdict(try_family(family, task)))
