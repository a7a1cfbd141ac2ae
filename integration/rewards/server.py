"""The worker process: it makes the task's verifier once, and lets a fork of itself judge each batch of answers.

What an answer does ends with the fork: the worker sees how it ended, says so, and forks again for the answers that are left.
Where there is no fork (Windows) the worker judges by itself, and the trainer's process starts it again when it is lost.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from integration.rewards.confinement import confine, prepare, timer
from integration.rewards.sources import Opened, judge
from integration.rewards.suspicion import harmless
from integration.rewards.verdicts import KINDS, OF_CODE, Limits, Verdict

RECORD = struct.Struct("<idB")
"""Number of the answer, score, code of the failure: what a fork writes for every answer."""
HEAD = struct.Struct("<Q")
"""Length of a pickled message to the worker."""
_NAMES = ["", *KINDS]

Pairs = Sequence[tuple[dict[str, Any], str]]


def main() -> None:
    """Serve until standard input ends, as it does when the trainer is gone."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    requests, replies = _take_streams()
    try:
        source, limits, forks = _receive(requests)
        task = source.open()
        here = None if forks and hasattr(os, "fork") else _confined(limits)
        prepare()
        _reply(replies, {"ready": True})
        while True:
            pairs = _receive(requests)
            verdicts = _forked(task, pairs, limits, source.executing, replies) if here is None else here(task, pairs)
            for index, verdict in enumerate(verdicts):
                _reply(replies, [index, *verdict])
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        _reply(replies, {"failed": f"{type(error).__name__}: {error}"})


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output as channels of our own; whatever is printed goes nowhere."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return requests, replies


def _receive(requests: BinaryIO) -> Any:
    head = requests.read(HEAD.size)
    if len(head) < HEAD.size:
        raise EOFError
    return pickle.loads(requests.read(HEAD.unpack(head)[0]))


def _reply(replies: BinaryIO, message: object) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


def _confined(limits: Limits) -> Any:
    """Judge in this process, which has no fork."""
    hook, _ = confine(limits)

    def judging(task: Opened, pairs: Pairs) -> Iterator[Verdict]:
        for entry, text in pairs:
            hook.refused = False
            verdict = judge(task, entry, text)
            yield Verdict(0.0, "forbidden") if hook.refused else verdict

    return judging


def _forked(task: Opened, pairs: Pairs, limits: Limits, alone: bool, replies: BinaryIO) -> Iterator[Verdict]:
    """Verdicts of all pairs, in their order, by as many forks as it takes; `alone`: one for each answer that may act."""
    done = 0
    while done < len(pairs):
        batch = pairs[done:]
        if alone:
            quiet = next((i for i, (_, text) in enumerate(batch) if not harmless(text)), len(batch))
            batch = batch[: quiet or 1]
        for verdict in _one_fork(task, batch, limits, replies):
            yield verdict
            done += 1


def _one_fork(task: Opened, pairs: Pairs, limits: Limits, replies: BinaryIO) -> Iterator[Verdict]:
    """Verdicts up to the end of the batch, or up to the answer that ended the fork, that one included."""
    ours, its = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        try:
            os.close(ours)
            os.close(replies.fileno())
            _judge_in_fork(task, pairs, limits, its, parent)
        finally:
            os._exit(0)
    os.close(its)
    try:
        for index in range(len(pairs)):
            record = _read_record(ours, limits.wall)
            if isinstance(record, bytes):
                number, score, code = RECORD.unpack(record)
                if number == index and code < len(_NAMES):
                    yield Verdict.of(score, _NAMES[code])
                    continue
            yield Verdict(0.0, "time" if record is None else _how_it_ended(child))
            return
    finally:
        os.close(ours)
        _end(child)


def _judge_in_fork(task: Opened, pairs: Pairs, limits: Limits, out: int, parent: int) -> None:
    _die_with(parent)
    restart, (hook, _) = timer(limits), confine(limits)
    write, pack = os.write, RECORD.pack
    for index, (entry, text) in enumerate(pairs):
        restart()
        verdict = judge(task, entry, text)
        if hook.refused:
            hook.refused, verdict = False, Verdict(0.0, "forbidden")
        write(out, pack(index, verdict.score, OF_CODE[verdict.failure]))


def _die_with(parent: int) -> None:
    """Ask Linux to end this process with its parent; elsewhere it ends at its own limits."""
    if sys.platform != "linux":
        return
    import ctypes  # noqa: PLC0415 (imported already, with the filter)

    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def _read_record(stream: int, seconds: float) -> bytes | str | None:
    """A record; "ended" if the fork closed its pipe before, None if time ran out."""
    data, until = b"", time.monotonic() + seconds
    while len(data) < RECORD.size:
        ready, _, _ = select.select([stream], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        part = os.read(stream, RECORD.size - len(data))
        if not part:
            return "ended"
        data += part
    return data


def _how_it_ended(child: int) -> str:
    """The kind of failure, from the exit status of a fork that said nothing any more."""
    for _ in range(200):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _ENDED.add(child)
            break
        time.sleep(0.005)
    else:  # it closed its pipe and goes on
        return "crash"
    if not os.WIFSIGNALED(status):
        return "exit"
    number = os.WTERMSIG(status)
    if number in (signal.SIGPROF, signal.SIGXCPU):
        return "time"
    return "memory" if number == signal.SIGKILL else "crash"


_ENDED: set[int] = set()
"""Forks that have been waited for."""


def _end(child: int) -> None:
    """Kill a fork, whatever it does, and wait for it."""
    if child in _ENDED:
        _ENDED.discard(child)
        return
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
