"""gspo-laws package.module:name, or python -m gspo_core.laws: check or profile a loss from a shell.

Exit status 0 if the loss is the one that it claims to be, 1 if a law is broken, 2 if the loss cannot be found or called.
A loss that fails at extremes only (overflow, NaN in padding) has status 0, and 1 with --strict. A profile claims nothing: its
status is 0, unless --like, --clip or --strict asks for a verdict.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from gspo_core import __version__
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import PRESETS

from .cards.markdown import markdown
from .cards.page import page
from .cards.profiling import Profile, profile
from .checking import check
from .kit.claim import Claim
from .kit.frameworks import FRAMEWORKS
from .kit.names import Names
from .kit.report import Report
from .kit.runner import EXAMPLES
from .subjects import subject_of


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gspo-laws", description="Check a policy loss against the laws of GSPO, or of another preset."
    )
    parser.add_argument("--version", action="version", version=f"gspo-core {__version__}")
    parser.add_argument(
        "loss", help="package.module:name of a function (logp, old_logp, advantage, mask) -> scalar, or with other names"
    )
    parser.add_argument(
        "--like", metavar="PRESET", help=f"check the claims of this preset (default GSPO): {', '.join(PRESETS)}"
    )
    parser.add_argument(
        "--clip", nargs=2, type=float, metavar=("LOW", "HIGH"), help="the loss's clip range, if not the preset's"
    )
    parser.add_argument(
        "--profile", action="store_true", help="measure what the loss computes; assumes no preset unless --like is given"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random batches (default 0)")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help=f"random batches per law (default {EXAMPLES})")
    _add_ways(parser)
    parser.add_argument("--framework", choices=tuple(FRAMEWORKS), help="default: the first one that the loss accepts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the results as an HTML page")
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="also write the results as Markdown if FILE ends in .md, else as HTML"
    )
    parser.add_argument("--all", action="store_true", help="also print every law, and a counterexample for each broken one")
    parser.add_argument("--strict", action="store_true", help="status 1 also for a loss that fails at extremes only")
    return parser.parse_args(argv)


def _add_ways(parser: argparse.ArgumentParser) -> None:
    """Options that say how the loss is called, and what it does not claim."""
    roles = ", ".join(field.name for field in fields(Names) if field.type == "str | None")
    parser.add_argument(
        "--names",
        metavar="ROLE=ARGUMENT,...",
        help=f"argument names, such as logp=log_prob,old_logp=old_log_prob, if they are not recognised; roles: {roles}",
    )
    parser.add_argument("--float-mask", action="store_true", help="pass the mask as 0.0 and 1.0")
    parser.add_argument("--token-advantages", action="store_true", help="pass one advantage per token always")
    parser.add_argument(
        "--no-empty-rows",
        dest="empty_rows",
        action="store_false",
        help="never give the loss a row without a token, as a trainer does that filters such rows before",
    )
    parser.add_argument("--dtype", choices=("float64", "float32"), help="type of the arrays (default float64)")
    parser.add_argument(
        "--without", default="", metavar="CLAIM,...", help="claims that the loss does not share, such as MEAN_RATIO"
    )


def _names(args: argparse.Namespace) -> Names | None:
    """The argument names that were given; None if they are to be recognised."""
    if not (args.names or args.float_mask or args.token_advantages):
        return None
    roles, given = {field.name for field in fields(Names) if field.type == "str | None"}, dict[str, Any]()
    for pair in filter(None, (args.names or "").split(",")):
        role, _, argument = pair.partition("=")
        if role not in roles or not argument:
            raise ValueError(f"--names: expected ROLE=ARGUMENT with a role of {', '.join(sorted(roles))}, got {pair}")
        given[role] = argument
    return Names(**given, float_mask=args.float_mask, token_advantages=args.token_advantages)


def _without(given: str) -> set[Claim]:
    names = list(filter(None, given.split(",")))
    unknown = [name for name in names if name not in Claim.__members__]
    if unknown:
        raise ValueError(f"--without: expected claims of {', '.join(Claim.__members__)}, got {', '.join(unknown)}")
    return {Claim[name] for name in names}


def _load(path: str) -> Any:
    """The object at package.module:name, which may be in the current folder."""
    module, _, name = path.partition(":")
    if not name:
        raise ValueError(f"expected package.module:name, got {path!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever stands in the file: none of it is a verdict on the loss
        raise ValueError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
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


def _found(args: argparse.Namespace) -> Report | Profile:
    """The report or the profile that was asked for."""
    options: dict[str, Any] = {"seed": args.seed, "examples": args.examples, "without": _without(args.without)}
    options["empty_rows"] = args.empty_rows
    framework = FRAMEWORKS[args.framework] if args.framework else None
    loss, like = _load(args.loss), _objective(args.like, args.clip)
    if not isinstance(loss, Objective):
        loss = subject_of(loss, framework=framework, names=_names(args), name=args.loss, dtype=args.dtype)
    if not args.profile:
        return check(loss, like, framework=framework, **options)
    return profile(loss, like if args.like or args.clip else None, framework=framework, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status; see the module."""
    args = _arguments(argv)
    try:
        found = _found(args)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        print(f"gspo-laws: {error}", file=sys.stderr)
        return 2
    report = found.report if isinstance(found, Profile) else found
    _print(f"{found}\n\n{report.table()}" if args.all else str(found))
    if args.json:
        args.json.write_text(found.json() + "\n", encoding="utf-8")
    if args.html:
        args.html.write_text(page(found), encoding="utf-8")
    if args.card:
        args.card.write_text((markdown if args.card.suffix == ".md" else page)(found), encoding="utf-8")
    if args.profile and not (args.like or args.clip or args.strict):
        return 0
    return 0 if report.ok and not (args.strict and report.fragile) else 1
