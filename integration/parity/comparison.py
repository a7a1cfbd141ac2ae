"""Compares the run of any trainer with the twenty reference updates, and names the first number that is beyond its budget.

    python -m integration.parity.comparison my_updates.json

The file is a JSON list of twenty objects, one per update, with any of the fields of `Update`: loss, grad_norm, log_s,
clipped, marks. What a trainer does not record is left out and not compared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .reference import CLIP, Golden, Run, Update, load

FACTOR = 4.0
"""A float32 trainer may be this many times as far from the truth as PyTorch's was at its worst so far."""
EPS = float(np.finfo(np.float32).eps)
FLOOR = {"log s": 8 * EPS, "loss": 8 * EPS, "gradient norm": 8 * EPS, "parameters": EPS}
"""And this much further: log-probs of several nats are rounded, parameters of order one.

And as far as steps that are LONGER take PyTorch in float64. In float32, as optax has it, Adam's 1 − 0.999^t is off by 1.3e-5 of
itself at t = 1, where 0.999 is rounded; the root halves that. PyTorch takes it in float64."""
MARGIN = 3e-5
"""In nats. Closer to a bound than this, float32 may decide either way."""
FIELDS = {"log s": "log_s", "clip decisions": "clipped", "loss": "loss", "gradient norm": "grad_norm", "parameters": "marks"}
"""Quantities, in the order in which an update computes them, and their fields."""
ASK = {
    "log s": "the forward pass, the old log-probs, the mask, or the step before",
    "clip decisions": "the clip range, and the sign of A for which each bound acts",
    "loss": "the advantages, the bounds of the clip, and what the sum over responses is divided by",
    "gradient norm": "what the loss holds constant, the sum over micro-batches, and whether the norm is that before the cut",
    "parameters": "the optimizer: learning rate and its warm-up, weight decay, ε, and how gradients are cut",
}
"""Where to look if a quantity is the first that is off."""


class Deviation(NamedTuple):
    """A number of one update, or of the end."""

    update: int
    """Counted from 0; 20 for the parameters at the end."""
    what: str
    """A quantity of FIELDS, or the name of a parameter at the end."""
    error: float
    """Largest distance from the float64 run; of gradient norms relative, of clip decisions that of the log s from its bound."""
    allowed: float

    @property
    def beyond(self) -> bool:
        """Whether the error is larger than allowed, or NaN."""
        return not self.error <= self.allowed

    def __str__(self) -> str:
        """Update, quantity and both numbers."""
        when = f"update {self.update + 1}" if self.what in FIELDS else "after the last update"
        return f"{when}: {self.what} off by {self.error:.2g}, {self.allowed:.2g} allowed"


@dataclass(frozen=True)
class Comparison:
    """Every number of a run beside the reference. Print it."""

    deviations: tuple[Deviation, ...]
    """In the order in which a trainer computes them."""

    @property
    def ok(self) -> bool:
        """Whether every number is within its budget."""
        return self.first is None

    @property
    def first(self) -> Deviation | None:
        """The first number beyond its budget: what comes after it may be its consequence."""
        return next((d for d in self.deviations if d.beyond), None)

    @property
    def missing(self) -> tuple[str, ...]:
        """Quantities that the run does not have in every update."""
        counts = [sum(d.what == what for d in self.deviations) for what in FIELDS]
        return tuple(what for what, count in zip(FIELDS, counts, strict=True) if count < max(1, *counts))

    def __str__(self) -> str:
        """The first number beyond its budget and where to look, or that there is none."""
        beyond = [d for d in self.deviations if d.beyond]
        lines = [f"{len(self.deviations)} numbers compared, {len(beyond)} beyond their budgets."]
        lines += [f"Not compared in every update: {', '.join(self.missing)}."] if self.missing else []
        if beyond:
            first = beyond[0]
            lines += [f"The first: {first}.", f"Look at {ASK.get(first.what, ASK['parameters'])}."]
        return "\n".join(lines)


def compare(run: Run | Sequence[Mapping[str, Any]], golden: Golden | None = None) -> Comparison:
    """Judges a float32 run on the stored rollouts against the float64 run.

    A number may be off by FACTOR times what PyTorch's float32 run is off by at its worst so far, plus what LONGER steps
    cost, plus FLOOR: an error that happens to be 0 grants nothing to others, and errors of one update are carried into all
    later ones. A clip decision may differ where log s is within MARGIN of a bound.

    Args:
        run: a `Run`, or one mapping per update with any of the fields of `Update`. With a `Run` the parameters after the
            last update are compared entry by entry, too.
        golden: the reference; None: the committed one.

    Raises: ValueError if the number of updates, of responses in an update or the names of the parameters differ.
    """
    golden = load() if golden is None else golden
    updates: list[Mapping[str, Any]] = [vars(x) for x in run.updates] if isinstance(run, Run) else list(run)
    if len(updates) != len(golden.float64.updates):
        raise ValueError(f"updates: expected {len(golden.float64.updates)}, got {len(updates)}")
    worst, stretched = dict.fromkeys(FLOOR, 0.0), dict.fromkeys(FLOOR, 0.0)
    found: list[Deviation] = []
    stored = zip(golden.float32.updates, golden.longer, golden.float64.updates, strict=True)
    for index, (mine, (narrow, longer, exact)) in enumerate(zip(updates, stored, strict=True)):
        _check(index, mine, exact)
        theirs, farther = (_errors(vars(x), exact) for x in (narrow, longer))
        for what in FLOOR:
            worst[what], stretched[what] = max(worst[what], theirs[what]), max(stretched[what], farther[what])
        for what, error in _errors(mine, exact).items():
            allowed = FACTOR * worst[what] + stretched[what] + FLOOR[what] if what in FLOOR else MARGIN
            found.append(Deviation(index, what, error, allowed))
    return Comparison((*found, *(_at_the_end(run, golden) if isinstance(run, Run) else ())))


def _check(index: int, mine: Mapping[str, Any], exact: Update) -> None:
    """As many responses, and the same parameters."""
    for name in ("log_s", "clipped"):
        if mine.get(name) is not None and len(mine[name]) != len(exact.log_s):
            raise ValueError(f"{name} of update {index + 1}: expected {len(exact.log_s)} responses, got {len(mine[name])}")
    if mine.get("marks") is not None and set(mine["marks"]) != set(exact.marks):
        differ = sorted(set(mine["marks"]) ^ set(exact.marks))
        raise ValueError(f"marks of update {index + 1}: expected the names of the checkpoint, got others: {', '.join(differ)}")


def _errors(mine: Mapping[str, Any], exact: Update) -> dict[str, float]:
    """The error of each quantity that the update has."""
    given = {what for what, field in FIELDS.items() if mine.get(field) is not None}
    error = {
        "log s": lambda: _largest(abs(x - y) for x, y in zip(mine["log_s"], exact.log_s, strict=True)),
        "clip decisions": lambda: _largest(_distances(mine["clipped"], exact)),
        "loss": lambda: abs(mine["loss"] - exact.loss),
        "gradient norm": lambda: abs(mine["grad_norm"] - exact.grad_norm) / max(exact.grad_norm, 1e-30),
        "parameters": lambda: _largest(abs(mine["marks"][name] - mark) for name, mark in exact.marks.items()),
    }
    return {what: float(error[what]()) for what in FIELDS if what in given}


def _distances(clipped: Sequence[bool], exact: Update) -> list[float]:
    """|log s − the nearer bound| of every response that is decided differently, in float64."""
    bounds = math.log1p(-CLIP.low), math.log1p(CLIP.high)
    decided = zip(clipped, exact.clipped, exact.log_s, strict=True)
    return [min(abs(log_s - bound) for bound in bounds) for mine, expected, log_s in decided if bool(mine) != expected]


def _largest(errors: Any) -> float:
    """The largest, 0 of none; NaN if there is one."""
    return float(np.max(np.array([*errors, 0.0])))


def _at_the_end(run: Run, golden: Golden) -> list[Deviation]:
    """The parameters after the last update, entry by entry."""
    if set(run.parameters) != set(golden.float64.parameters):
        differ = sorted(set(run.parameters) ^ set(golden.float64.parameters))
        raise ValueError(f"parameters: expected the names of the checkpoint, got others: {', '.join(differ)}")
    found = []
    for name, exact in golden.float64.parameters.items():
        mine, narrow = (_rms(values[name] - exact) for values in (run.parameters, golden.float32.parameters))
        found.append(Deviation(len(golden.float64.updates), name, mine, FACTOR * narrow + FLOOR["parameters"]))
    return found


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def main() -> int:
    """The command line. Returns the exit status: 1 if a number is beyond its budget."""
    parser = argparse.ArgumentParser(prog="python -m integration.parity.comparison", description=str(__doc__).splitlines()[0])
    parser.add_argument("updates", type=Path, help="JSON list of twenty updates")
    found = compare(json.loads(parser.parse_args().updates.read_text(encoding="utf-8")))
    print(found)
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
