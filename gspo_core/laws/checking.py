"""Checking a loss, an advantage function or a clip fraction against the laws."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from gspo_core.advantages.normalisers import Normaliser, ZScore
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import GSPO, PRESETS

from .causes.functions import clip_fraction, group_advantages
from .causes.search import causes
from .chapters.catalogue import LAWS
from .chapters.functions.clip_fraction import FRACTION_LAWS, ClipFractionFunction
from .chapters.functions.group_advantages import ADVANTAGE_LAWS, AdvantageFunction, AdvantageSetting
from .kit.claim import Claim, implied
from .kit.law import Law
from .kit.names import Names
from .kit.oracle import assumptions
from .kit.report import Report
from .kit.runner import EXAMPLES, run
from .kit.setting import Setting
from .kit.signature import said
from .kit.subject import Framework, Subject
from .subjects import LossFunction, subject_of, title_of


def check(
    loss: Objective | LossFunction | Subject,
    like: Objective = GSPO,
    seed: int = 0,
    *,
    claims: Iterable[Claim] = (),
    without: Iterable[Claim] = (),
    framework: Framework | None = None,
    names: Names | None = None,
    dtype: Any = None,
    empty_rows: bool = True,
    examples: int = EXAMPLES,
    laws: Iterable[Law] | None = None,
) -> Report:
    """Checks a loss against every law that applies to it.

    Args:
        loss: an `Objective`, or a function (logp, old_logp, advantage, mask) ↦ scalar in NumPy, PyTorch or JAX. NumPy
            losses are differentiated by central differences, unless they return an object with `.value` and `.logp_grad`.
        like: the objective whose claims the loss shares, with its parameters: GSPO.with_clip(0.2, 0.2) for another clip
            range.
        seed: seed of the random cases; equal seeds give equal reports.
        claims, without: further claims of the loss, and claims of `like` that it does not share.
        framework: NUMPY, TORCH or JAX; None: the first one that the loss accepts.
        names: the argument names of the loss, see `Names`; None: recognised, see `subject_of`.
        dtype: of the arrays; np.float32 for a loss that accepts no other. A loss that computes in float32 is judged with the
            tolerances of float32 in any case.
        empty_rows: False for a loss that is never given a row without a token, because its trainer filters these rows before:
            they are left out of every call, and the laws about them are untested.
        examples: random cases per law.
        laws: the laws to check; None: `LAWS`.

    Returns: `Report` with `.ok` and `.broken`; print it. `.unchecked` names a surrogate or gate for which the kit has no
    formula: its slope is checked against its gain, and everything around it, but not the formula itself.

    Raises: TypeError if `loss` cannot be called; ValueError for an `Objective` with `empty_rows=False`.

    >>> from gspo_core import GSPO, laws
    >>> laws.check(GSPO, examples=5).ok
    True
    """
    subject = subject_of(loss, framework=framework, names=names, dtype=dtype, empty_rows=empty_rows)
    target = loss if isinstance(loss, Objective) and like is GSPO else like
    if subject.names.needs_denominator:
        subject = replace(subject, names=replace(subject.names, counted_as=target))
    setting = Setting(target, (subject.claims(target) | set(claims)) - set(without))
    verdicts = tuple(run(law, subject, setting, seed, examples) for law in (LAWS if laws is None else laws))
    explain = functools.partial(causes, subject, setting, seed=seed)
    return Report(
        subject.name, _name_of(target), subject.framework.name, seed, verdicts, assumptions(target), explain, _note(subject)
    )


def _note(subject: Subject) -> str:
    """How the loss was called, and how precise it is."""
    rows = "" if subject.names.empty_rows else "Rows without a token are left out of every call, as was asked for"
    precision = "It computes in float32, and is judged with the tolerances of float32" if subject.resolution > 1e-8 else ""
    return ". ".join(filter(None, (said(subject.names), rows, precision)))


Z_SCORE = ZScore()


def check_advantages(
    fn: Callable[[Any, Any], Any],
    like: Normaliser = Z_SCORE,
    seed: int = 0,
    *,
    convert: Callable[[Any], Any] = np.asarray,
    examples: int = EXAMPLES,
    laws: Iterable[Law] | None = None,
) -> Report:
    """Checks a function (rewards [N], group_ids [N]) ↦ advantages [N] against the laws of group advantages.

    `like` is the normaliser that it should implement: ZScore(ddof, eps), Centred() or LeaveOneOut(). `convert` turns NumPy
    arrays into the arrays that the function expects. Other arguments as in `check`.

    >>> from gspo_core import group_advantages, laws
    >>> laws.check_advantages(group_advantages, examples=5).ok
    True
    """
    subject, setting = AdvantageFunction(title_of(fn), fn, convert), AdvantageSetting(like)
    chosen = ADVANTAGE_LAWS if laws is None else laws
    verdicts = tuple(run(law, subject, setting, seed, examples) for law in chosen)
    explain = functools.partial(group_advantages.causes, subject, setting, seed=seed)
    return Report(subject.name, str(like), "", seed, verdicts, explain=explain)


def check_clip_fraction(
    fn: Callable[..., Any],
    like: Objective = GSPO,
    seed: int = 0,
    *,
    per_token: bool = False,
    convert: Callable[[Any], Any] = np.asarray,
    examples: int = EXAMPLES,
    laws: Iterable[Law] | None = None,
) -> Report:
    """Checks a function (logp, old_logp, advantage, mask) ↦ fraction against the laws of clip fractions.

    `like` is the objective whose clipped units it should count: a fraction of tokens if `per_token`, else of non-empty
    responses. Other arguments as in `check_advantages`.

    >>> from gspo_core import GSPO, Padded, laws, policy_loss
    >>> def clip_fraction(logp, old_logp, advantage, mask):
    ...     clipped = policy_loss(GSPO, logp, old_logp, advantage, Padded(mask)).clipped
    ...     return clipped.sum() / mask.any(axis=1).sum()
    >>> laws.check_clip_fraction(clip_fraction, examples=5).ok
    True
    """
    subject = ClipFractionFunction(title_of(fn), fn, per_token, convert)
    setting = Setting(like, implied(like))
    chosen = FRACTION_LAWS if laws is None else laws
    verdicts = tuple(run(law, subject, setting, seed, examples) for law in chosen)
    explain = functools.partial(clip_fraction.causes, subject, setting, seed=seed)
    return Report(subject.name, _name_of(like), "", seed, verdicts, explain=explain)


def _name_of(objective: Objective) -> str:
    named = {value: name for name, value in PRESETS.items()}
    if objective in named:
        return named[objective]
    for value, name in named.items():
        if replace(value, surrogate=objective.surrogate) == objective:
            return f"{name} with {objective.surrogate}"
    return str(objective)
