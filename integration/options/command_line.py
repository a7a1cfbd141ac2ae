"""The command line of both training scripts. It imports no framework, so that --help and wrong options are answered at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import tyro

from integration.options.config import Config
from integration.options.errors import TrainingFailure, UserError
from integration.options.resuming import check_changes, saved_options


def command_line(train: Callable[[Config], int], description: str | None) -> int:
    """Read the options and train. An error is one sentence on standard error and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding gets escapes, not an error
    try:
        return train(read_options(description))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingFailure as error:
        print(f"training stopped: {error}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"training stopped: {error}; what was saved before is whole", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted at once; what was saved before is whole", file=sys.stderr)
        return 130


def read_options(description: str | None) -> Config:
    """The command line's options. With --resume, those left out are as saved; those given are obeyed or refused."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--resume", type=Path)
    try:
        resume = first.parse_known_args()[0].resume
    except argparse.ArgumentError:  # tyro says it better
        resume = None
    if resume is None:
        return tyro.cli(Config, description=description)
    config = tyro.cli(Config, description=description, default=saved_options(resume))
    check_changes(config)
    return config
