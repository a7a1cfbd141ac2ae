"""gspo-laws package.module:name: check or profile a loss from a shell.

Exit status 0 if all laws hold, 1 if one is broken, 2 if the loss cannot be found or called.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gspo-laws", description="Check a policy loss against the laws that it claims.")
    parser.add_argument("loss", help="package.module:name of a function (logp, old_logp, advantage, mask) -> scalar")
    parser.add_argument("--like", default="GSPO", help="the preset whose claims it shares (default GSPO)")
    parser.add_argument("--clip", nargs=2, type=float, metavar=("LOW", "HIGH"), help="its clip range, if not the preset's")
    parser.add_argument("--profile", action="store_true", help="claim nothing; find out what it does")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument("--examples", type=int, help="per law")
    parser.add_argument("--framework", choices=("numpy", "torch", "jax"), help="default: found out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report card")
    return parser.parse_args(argv)


def _load(path: str) -> Any:
    """The object at package.module:name; the current folder is searched, too."""
    module, _, name = path.partition(":")
    if not name:
        raise ValueError(f"expected package.module:name, got {path!r}")
    sys.path.insert(0, str(Path.cwd()))
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _like(name: str, clip: Sequence[float] | None) -> Any:
    from dataclasses import replace  # noqa: PLC0415

    from gspo_core.objectives import presets  # noqa: PLC0415
    from gspo_core.objectives.clipped_surrogates import Clip  # noqa: PLC0415

    objective = getattr(presets, name.upper(), None)
    if objective is None:
        raise ValueError(f"--like: no preset is named {name}")
    return replace(objective, surrogate=Clip(*clip)) if clip else objective


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    args = _arguments(argv)
    # Imported here so that --help answers at once.
    from .cards.page import page  # noqa: PLC0415
    from .cards.profiling import profile  # noqa: PLC0415
    from .checking import check  # noqa: PLC0415
    from .kit.frameworks import FRAMEWORKS  # noqa: PLC0415
    from .kit.runner import EXAMPLES  # noqa: PLC0415

    options: dict[str, Any] = {"seed": args.seed, "examples": args.examples or EXAMPLES}
    if args.framework:
        options["framework"] = FRAMEWORKS[args.framework]
    try:
        loss = _load(args.loss)
        found: Any = profile(loss, **options) if args.profile else check(loss, _like(args.like, args.clip), **options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        print(f"gspo-laws: {error}", file=sys.stderr)
        return 2
    print(found)
    if args.json:
        args.json.write_text(found.json() + "\n", encoding="utf-8")
    if args.html:
        args.html.write_text(page(found), encoding="utf-8")
    report = found.report if args.profile else found
    return 0 if report.ok else 1
