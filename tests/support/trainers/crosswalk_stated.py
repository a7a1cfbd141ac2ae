"""How what docs/crosswalk.md states of a trainer is looked up in the installed package."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

import numpy as np
from support.trainers.crosswalk import WIDE, Batch, Row, batch, here
from support.trainers.crosswalk_calls import Theirs
from support.trainers.crosswalk_rows import ROWS
from support.trainers.crosswalk_rows.stated import ADVANTAGES, COUNTED, DEFAULTS, EMPTY_ROWS, LEFT_OUT, METRICS

from gspo_core import Objective, Padded, batch_metrics, group_advantages, policy_loss, summary
from gspo_core.advantages import ZScore


def defaults(host: str, source: Any) -> dict[str, Any]:
    """The defaults that the page states, as `source` has them: a dataclass, a function, a dictionary or an object."""
    if dataclasses.is_dataclass(source):
        found = {field.name: field.default for field in dataclasses.fields(source)}
    elif callable(source):
        found = {name: parameter.default for name, parameter in inspect.signature(source).parameters.items()}
    else:
        found = source if isinstance(source, dict) else vars(source)
    return {name: found[name] for name in DEFAULTS[host]}


def text(distribution: str, file: str) -> str:
    """Of a module of an installed package."""
    return Path(str(importlib.metadata.distribution(distribution).locate_file(file))).read_text(encoding="utf-8")


def calls_with_default(module: str) -> dict[str, Any]:
    """Of the options in a module's text: `add_argument("--name", default=...)`, and `name: type = field(default=...)`."""
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse(module)):
        call = node.value if isinstance(node, ast.AnnAssign) else node
        given = {k.arg: k.value for k in call.keywords} if isinstance(call, ast.Call) else {}
        if not isinstance(given.get("default"), ast.Constant):
            continue
        if isinstance(node, ast.AnnAssign):
            found[ast.unparse(node.target)] = given["default"].value
        elif call.args and isinstance(call.args[0], ast.Constant):
            found[str(call.args[0].value).lstrip("-")] = given["default"].value
    return found


def empty_rows(host: str, theirs: Any) -> str:
    """Whether the trainer's mean over responses counts one without a token. `theirs(row)` is its loss for a row's settings."""
    row: Row = next(row for row in ROWS if row.host == host and row.formula.startswith("response mean of min(w A"))
    given = batch(WIDE, positive=row.of.endswith("A > 0"))
    longer = Batch(*(np.concatenate([x, x[:1]]) for x in given))
    longer.mask[-1] = False
    loss: Theirs = theirs(row)
    found, ours = loss(longer)[1][:-1] * given.mask, here(row, given).grad
    for answer, factor in ((LEFT_OUT, 1.0), (COUNTED, len(given.mask) / len(longer.mask))):
        if np.allclose(found, factor * ours, rtol=1e-5, atol=1e-6 * np.abs(ours).max()):
            return answer
    return "neither"


def check_advantages(host: str, theirs: Any) -> None:
    """Fails unless the trainer's advantages of three groups of four rewards are what the page's normaliser gives."""
    rewards = np.random.default_rng(5).integers(0, 2, (3, 4)) + np.array([0.0, 0.25, 0.5, 0.0])
    ours = group_advantages(rewards.ravel(), np.repeat([0, 1, 2], 4), eval(ADVANTAGES[host], {"ZScore": ZScore}))
    np.testing.assert_allclose(theirs(rewards.ravel()), ours, rtol=1e-5)
    assert np.abs(ours).max() > 0.5


def numbers(objective: Objective) -> dict[str, float]:
    """Our metrics of an objective on the batch of wide spread."""
    given = batch(WIDE)
    rows = (given.logp, given.old_logp, given.A, Padded(given.mask))
    return summary(batch_metrics(objective, policy_loss(objective, *rows), *rows))


def check(host: str, theirs: Any, source: Any, *texts: str) -> None:
    """Fails unless what the page states of the trainer is so in the installed package."""
    assert defaults(host, source) == DEFAULTS[host]
    assert empty_rows(host, theirs) == EMPTY_ROWS[host]
    absent = [name for name in METRICS.get(host, []) if not any(f'"{name}"' in module for module in texts)]
    assert absent == []
