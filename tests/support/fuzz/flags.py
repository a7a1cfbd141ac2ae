"""One odd value for one or two flags of a training script: refused in one sentence that names a flag, or a usable run."""

from __future__ import annotations

import dataclasses
import io
import math
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from unittest.mock import patch

import numpy as np

from integration.options.command_line import command_line
from integration.options.config import Config
from integration.options.errors import UserError
from integration.options.sizes import Experts, WarmUp

ODD: list[Any] = [
    -1, 0, 1, 3, -0.5, 0.5, math.nan, math.inf, -math.inf, 1e30, 10**30, True, "", " ", "x", "\ud800", "a\0b", [], [1], {},
    None,
]  # fmt: skip
NESTED = {"warm_up": WarmUp, "experts": Experts}
OPTIONS = [f.name for f in dataclasses.fields(Config) if f.name not in NESTED]
OPTIONS += [f"{outer}.{f.name}" for outer, kind in NESTED.items() for f in dataclasses.fields(kind)]
TYPED = ["-1", "0", "1", "0.5", "nan", "inf", "-inf", "1e30", "", " ", "x", "[1]", "None", "True", "--lr"]
"""What somebody may type."""
PARSED = 20
"""One case in so many goes through the whole command line, which takes a hundred times as long."""


def made(given: dict[str, Any]) -> Config:
    """A run of a mixture of experts with these options."""
    options: dict[str, Any] = {"model": "small-moe"}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        outer, _, field = name.partition(".")
        if field:
            inner.setdefault(outer, {})[field] = value
        else:
            options[outer] = value
    return Config(**options, **{outer: NESTED[outer](**fields) for outer, fields in inner.items()})


def of_values(rng: np.random.Generator) -> str:
    """Values as a program would pass them."""
    names = rng.choice(OPTIONS, size=int(rng.integers(1, 3)), replace=False).tolist()
    given = {name: ODD[rng.integers(0, len(ODD))] for name in names}
    try:
        made(given).build_objective()
    except UserError as error:
        if not str(error).startswith("--") or "\n" in str(error):
            raise AssertionError(f"{given}: {error}") from error
        return "refused"
    return "accepted"


def typed(rng: np.random.Generator) -> str:
    """Words as a person would type them; the run itself does not begin."""
    name = OPTIONS[rng.integers(0, len(OPTIONS))]
    flag, value = "--" + name.replace("_", "-"), TYPED[rng.integers(0, len(TYPED))]
    begun: list[Config] = []
    err = io.StringIO()
    with patch.object(sys, "argv", ["train.py", "--model", "small", flag, value]), redirect_stderr(err):
        try:
            with redirect_stdout(io.StringIO()):
                status: Any = command_line(lambda config: begun.append(config) or 0, "A run.")
        except SystemExit as ended:
            status = ended.code
    if status != (0 if begun else 2) or "Traceback" in err.getvalue():
        raise AssertionError(f"{flag} {value!r}: {status} {err.getvalue()}")
    return "accepted" if begun else "refused"


def check(seed: int, count: int) -> Counter[str]:
    """`count` cases; AssertionError names the seed of the case that fails."""
    done: Counter[str] = Counter()
    for case in range(count):
        one = typed if case % PARSED == 0 else of_values
        try:
            done[one(np.random.default_rng([seed, case]))] += 1
        except Exception as error:
            raise AssertionError(f"support.fuzz.flags.{one.__name__}(default_rng([{seed}, {case}]))") from error
    return done
