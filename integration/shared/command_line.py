"""The command line of both training scripts. It imports no framework, so that --help and wrong options are answered at once."""

from __future__ import annotations

import sys
from collections.abc import Callable

import tyro

from integration.shared.config import Config
from integration.shared.errors import TrainingFailure, UserError


def command_line(train: Callable[[Config], int], description: str | None) -> int:
    """Read the options and train. An error is one sentence on standard error and an exit status."""
    try:
        return train(tyro.cli(Config, description=description))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingFailure as error:
        print(f"training stopped: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted at once; what was saved before is whole", file=sys.stderr)
        return 130
