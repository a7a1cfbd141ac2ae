"""The command line of both training scripts. It imports no framework, so that --help and wrong options are answered at once."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from integration.options.config import Config
from integration.options.errors import TrainingFailure, UserError
from integration.options.groups import from_command_line
from integration.options.streams import steady_streams


def command_line(train: Callable[[Config], int], description: str | None) -> int:
    """Read the options and train. Returns the exit status."""
    return guarded(lambda: train(read_options(description)))


def guarded(main: Callable[[], int]) -> int:
    """A program's exit status. An error is one sentence on standard error; SIGTERM and a closed terminal are as Ctrl-C."""
    with steady_streams(), _interruptible():
        try:
            return main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except TrainingFailure as error:
            print(f"training stopped: {error}", file=sys.stderr)
            return 3
        except OSError as error:
            print(f"training stopped: {error}", file=sys.stderr)
            return 3
        except KeyboardInterrupt:
            print("interrupted at once", file=sys.stderr)
            return 130


@contextmanager
def _interruptible() -> Iterator[None]:
    """Other signals that end a process raise KeyboardInterrupt, too, so that temporary files go and a study's processes end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # such as SIGHUP under nohup
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def read_options(description: str | None) -> Config:
    """The command line's options. With --resume, those left out are as saved; those given are obeyed or refused.

    Nothing is written, but a --run-dir where no run can go is refused here, before anything is loaded.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--resume", type=Path)
    try:
        resume = first.parse_known_args()[0].resume
    except argparse.ArgumentError:  # tyro says it better
        resume = None
    if resume is None:
        config = from_command_line(description)
    else:
        from integration.options.resuming import check_changes, saved_options  # noqa: PLC0415 (files of runs: a fiftieth of a second)

        config = from_command_line(description, saved_options(resume))
        check_changes(config)
    if config.run_dir is not None and os.environ.get("RANK", "0") == "0":  # process 0 makes the folder, others may find it made
        from integration.records.run_folder import RunFolder  # noqa: PLC0415 (as above)

        RunFolder(config.run_dir, keep_checkpoints=1).require_free()
    return config
