"""A loss function of any framework as the subject of laws: how to call it, and how precise it is."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gspo_core.objectives.loss import Objective

from .kit.batch import Batch
from .kit.frameworks import NUMPY, installed
from .kit.names import Names
from .kit.signature import missing, recognised
from .kit.subject import Framework, LossError, Subject, of_objective

LossFunction = Callable[..., Any]
"""(logp, old_logp, advantage, mask) ↦ scalar."""

TRIAL = Batch.of([[0.0, 0.1, 0.0], [0.2, 0.0, 0.0]], [1.0, -1.0], [[1, 1, 1], [1, 0, 1]], base=-0.3)
"""Its shape tells one advantage per response from one per token, and its second response is not clipped."""
FLOAT32 = float(np.finfo(np.float32).eps)
SOFTMAX = 4e-15
"""Unit of rounding for a loss that takes logits: of exp, a sum and a logarithm."""
STEP = 2.0**-7
"""Step of finite differences for a loss in float32: rounding and the error of the formula balance there."""


def subject_of(
    loss: Objective | LossFunction | Subject,
    *,
    framework: Framework | None = None,
    names: Names | None = None,
    name: str | None = None,
    dtype: Any = None,
    empty_rows: bool = True,
) -> Subject:
    """Wraps an objective, or a loss function of any framework, as the subject of laws.

    Without `framework`, a trial call decides: NumPy first, then PyTorch and JAX if they are installed. Without `names`,
    arguments are recognised by their names where the signature is not (logp, old_logp, advantage, mask), and the mask is
    passed as floats, and advantages per token, if the loss accepts nothing else. `dtype` is that of the arrays: np.float64, or
    np.float32 for a loss that accepts no other. With `empty_rows=False` rows without a token are left out of every call, and
    have gradient 0. Raises: TypeError if no framework can call the loss; ValueError for an `Objective` with
    `empty_rows=False`, since it leaves these rows out itself.
    """
    if isinstance(loss, Objective):
        if not empty_rows:
            reason = "which leaves rows without a token out itself"
            raise ValueError(f"empty_rows: expected True for an Objective, {reason}, got False")
        return of_objective(loss, framework or NUMPY)
    found = loss if isinstance(loss, Subject) else _of_function(loss, framework, names, name, dtype)
    return found if empty_rows else replace(found, names=replace(found.names, empty_rows=False))


def _of_function(loss: LossFunction, framework: Framework | None, names: Names | None, name: str | None, dtype: Any) -> Subject:
    """A loss function with the first framework, and the first way to pass its arguments, that work."""
    if not callable(loss):
        raise TypeError(f"loss: expected an Objective or a function, got {type(loss).__name__}")
    found = recognised(loss, names or Names())
    title, failures = name or title_of(loss), list[tuple[int, str]]()
    for candidate in installed() if framework is None else [framework]:
        for ways in _ways(found) if names is None else [found]:
            subject = Subject(title, ways.bound(loss), candidate, ways, dtype=np.dtype(dtype or np.float64))
            try:
                return _measured(subject)
            except LossError as error:  # the wrong framework for this loss
                failures.append((_reached(loss, error), f"{candidate.name}: {error}"))
    raise TypeError(_refusal(loss, found, failures))


def _ways(names: Names) -> list[Names]:
    """The same arguments with a mask of floats, and with advantages per token."""
    return [
        replace(names, float_mask=floats or names.float_mask, token_advantages=tokens or names.token_advantages)
        for floats, tokens in itertools.product((False, True), repeat=2)
    ]


def _reached(loss: LossFunction, error: LossError) -> int:
    """The last line that a call reached in the file of the loss; 0 if it did not get inside."""
    inner = loss.func if isinstance(loss, functools.partial) else loss
    code = getattr(inner, "__code__", None)
    step, line = error.__cause__.__traceback__ if error.__cause__ else None, 0
    while step is not None:
        line = step.tb_lineno if step.tb_frame.f_code is code else line
        step = step.tb_next
    return line


def _refusal(loss: LossFunction, names: Names, failures: list[tuple[int, str]]) -> str:
    """Why no framework can call the loss, the one that came nearest first."""
    lines = dict.fromkeys(said for _, said in sorted(failures, key=lambda x: -x[0]))
    absent = missing(loss, names)
    bind = f"; bind {', '.join(absent)} with functools.partial, or name it with Names(...)" if absent else ""
    head = f"loss: cannot be called with (logp, old_logp, advantage, mask) arrays{bind}"
    return "\n  ".join([head, *(" ".join(line.split()) for line in lines)])


def title_of(loss: LossFunction) -> str:
    """The name of a function, also of a partial one."""
    inner = loss.func if isinstance(loss, functools.partial) else loss
    return str(getattr(inner, "__name__", type(inner).__name__))


def _measured(subject: Subject) -> Subject:
    """The subject, with `own_gradient` and `resolution` set by trial calls."""
    own = subject(TRIAL).noise == 0.0
    subject = replace(subject, own_gradient=own, resolution=SOFTMAX if subject.names.logits else 0.0)
    coarse = subject.dtype == np.float32 or _is_coarse(subject)
    return replace(subject, resolution=FLOAT32, step=STEP) if coarse else subject


def _is_coarse(subject: Subject) -> bool:
    """Whether the value is computed in float32: it follows log π in steps of 1e-3, and not in steps of 2e-9."""

    def moved(by: float) -> list[float]:
        return [subject(replace(TRIAL, logp=TRIAL.logp + by * k)).value for k in (0.0, 1.0, 1.7)]

    def follows(by: float) -> bool:
        values = np.array(moved(by))
        gaps = np.abs(np.diff(values))
        return bool((gaps > 0.2 * by * np.abs(values[:-1])).all() and (gaps < 5.0 * by * (1.0 + np.abs(values[:-1]))).all())

    return follows(1e-3) and not follows(2e-9)
