"""A run's numbers, its log s and its options, as TensorBoard reads them.

Written by the row and without a thread, unlike torch's SummaryWriter: a full disk is an error where the row is added.
"""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """A new file in a folder of events. Steps of earlier files from `first_step` on do not count any more."""

    def __init__(self, folder: Path, first_step: int, options: dict[str, bool | int | float | str]) -> None:
        folder.mkdir(exist_ok=True)
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        begun = SessionLog(status=SessionLog.START)
        self._write(Event(file_version="brain.Event:2"), Event(step=first_step, session_log=begun))
        self._write(Event(summary=hparams_pb(options, trial_id=str(folder.parent.absolute()))))

    def add(self, step: int, numbers: dict[str, float], lists: dict[str, list[float]]) -> None:
        """A point of each curve, and a histogram of each list."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        values += [Summary.Value(tag=name, histo=histogram(items)) for name, items in lists.items() if items]
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, *events: Event) -> None:
        with self._path.open("ab") as stream:
            writer = RecordWriter(stream)
            for event in events:
                event.wall_time = time.time()
                writer.write(event.SerializeToString())


def histogram(values: list[float], bins: int = 40) -> HistogramProto:
    """Of one number at least; those that are not finite are left out."""
    finite = np.asarray([value for value in values if math.isfinite(value)] or [0.0])
    counts, edges = np.histogram(finite, bins=bins)
    return HistogramProto(
        min=finite.min(), max=finite.max(), num=len(finite), sum=finite.sum(), sum_squares=(finite**2).sum(),
        bucket_limit=edges[1:].tolist(), bucket=counts.tolist(),
    )  # fmt: skip
