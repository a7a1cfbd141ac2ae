"""gspo-laws package.module:name, or python -m gspo_core.laws: check or profile a loss from a shell.

Exit status 0 if the loss is the one that it claims to be, 1 if a law is broken, 2 if the loss cannot be found or called.
A loss that fails at extremes only (overflow, NaN in padding) has status 0, and 1 with --strict.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gspo_core import __version__
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import PRESETS

from .cards.page import page
from .cards.profiling import profile
from .checking import check
from .kit.frameworks import FRAMEWORKS
from .kit.runner import EXAMPLES


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gspo-laws", description="Check a policy loss against the laws of GSPO, or of another preset."
    )
    parser.add_argument("--version", action="version", version=f"gspo-core {__version__}")
    parser.add_argument("loss", help="package.module:name of a function (logp, old_logp, advantage, mask) -> scalar")
    parser.add_argument(
        "--like", metavar="PRESET", help=f"check the claims of this preset (default GSPO): {', '.join(PRESETS)}"
    )
    parser.add_argument(
        "--clip", nargs=2, type=float, metavar=("LOW", "HIGH"), help="the loss's clip range, if not the preset's"
    )
    parser.add_argument("--profile", action="store_true", help="measure what the loss computes; do not assume a preset")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random batches (default 0)")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help=f"random batches per law (default {EXAMPLES})")
    parser.add_argument("--framework", choices=tuple(FRAMEWORKS), help="default: the first one that the loss accepts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the results as an HTML page")
    parser.add_argument("--all", action="store_true", help="also print every law, and a counterexample for each broken one")
    parser.add_argument("--strict", action="store_true", help="status 1 also for a loss that fails at extremes only")
    args = parser.parse_args(argv)
    if args.profile and (args.like or args.clip):
        parser.error("--profile finds the preset and the clip range itself; leave out --like and --clip")
    return args


def _load(path: str) -> Any:
    """The object at package.module:name, which may be in the current folder."""
    module, _, name = path.partition(":")
    if not name:
        raise ValueError(f"expected package.module:name, got {path!r}")
    sys.path.insert(0, str(Path.cwd()))
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _objective(name: str | None, clip: Sequence[float] | None) -> Objective:
    """The preset, with another clip range if one is given."""
    chosen = PRESETS.get((name or "GSPO").upper())
    if chosen is None:
        raise ValueError(f"--like: expected one of {', '.join(PRESETS)}, got {name}")
    return chosen.with_clip(*clip) if clip else chosen


def _print(text: str) -> None:
    """Prints, and stays quiet if the reader of a pipe has gone (`gspo-laws … | head`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status; see the module."""
    args = _arguments(argv)
    options: dict[str, Any] = {"seed": args.seed, "examples": args.examples}
    if args.framework:
        options["framework"] = FRAMEWORKS[args.framework]
    try:
        loss = _load(args.loss)
        found: Any = profile(loss, **options) if args.profile else check(loss, _objective(args.like, args.clip), **options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        print(f"gspo-laws: {error}", file=sys.stderr)
        return 2
    _print(f"{found}\n\n{(found.report if args.profile else found).table()}" if args.all else str(found))
    if args.json:
        args.json.write_text(found.json() + "\n", encoding="utf-8")
    if args.html:
        args.html.write_text(page(found), encoding="utf-8")
    report = found.report if args.profile else found
    return 0 if report.ok and not (args.strict and report.fragile) else 1
