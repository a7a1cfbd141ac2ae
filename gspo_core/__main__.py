"""The command gspo-laws, outside of `gspo_core.laws` so that it can report a missing hypothesis; also python -m gspo_core."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `gspo_core.laws.cli.main`; without hypothesis it prints one line that names the extra and returns 2."""
    if find_spec("hypothesis") is None:
        print('gspo-laws: hypothesis is not installed: pip install "gspo-core[laws]"', file=sys.stderr)
        return 2
    from gspo_core.laws.cli import main as command  # noqa: PLC0415 - needs hypothesis

    return command(argv)


if __name__ == "__main__":
    sys.exit(main())
