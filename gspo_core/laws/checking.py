"""The front door: check a loss against the laws it claims."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from gspo_core.advantages.normalisers import Normaliser, ZScore
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import GSPO

from .chapters.catalogue import LAWS
from .chapters.fraction import FRACTION_LAWS, ClipFraction
from .chapters.rewards import ADVANTAGE_LAWS, AdvantageFunction, Stated
from .kit.batch import Batch
from .kit.claim import Claim, implied
from .kit.frameworks import NUMPY, installed
from .kit.law import Law
from .kit.oracle import on_trust
from .kit.report import Report
from .kit.runner import EXAMPLES, run
from .kit.setting import Setting
from .kit.subject import Framework, Names, Raised, Subject, of_objective

Loss = Callable[..., Any]
"""(logp, old_logp, advantage, mask) ↦ scalar."""


def subject_of(
    loss: Objective | Loss | Subject, *, framework: Framework | None = None, names: Names | None = None, name: str | None = None
) -> Subject:
    """What the laws are asked of: an objective of ours, or a loss function of any framework.

    Without `framework` it is found out by a trial call: NumPy first, then those that are installed.
    """
    if isinstance(loss, Subject):
        return loss
    if isinstance(loss, Objective):
        return of_objective(loss, framework or NUMPY)
    if not callable(loss):
        raise TypeError(f"loss: expected an Objective or a function, got {type(loss).__name__}")
    names = names or Names()
    call = names.bound(loss)
    title = name or _title(loss)
    failures = []
    for candidate in installed() if framework is None else [framework]:
        try:
            return _with_gradient(Subject(title, call, candidate, names))
        except Raised as error:  # whatever a wrong framework raises
            failures.append(f"{candidate.name}: {error}")
    raise TypeError("loss: cannot be called with (logp, old_logp, advantage, mask) arrays\n  " + "\n  ".join(failures))


TRIAL = Batch.of([[0.0, 0.1], [0.2, 0.0]], [1.0, -1.0], [[1, 1], [1, 0]])


def _title(loss: Loss) -> str:
    inner = loss.func if isinstance(loss, functools.partial) else loss
    return str(getattr(inner, "__name__", type(inner).__name__))


def _with_gradient(subject: Subject) -> Subject:
    """Says whether the gradient is the loss's own; a JAX result without jit is NumPy's no longer."""
    own = subject(TRIAL).noise == 0.0
    return Subject(subject.name, subject.call, subject.framework, subject.names, subject.objective, own)


def check(
    loss: Objective | Loss | Subject,
    like: Objective = GSPO,
    seed: int = 0,
    *,
    claims: Iterable[Claim] = (),
    without: Iterable[Claim] = (),
    framework: Framework | None = None,
    names: Names | None = None,
    examples: int = EXAMPLES,
    laws: Iterable[Law] = LAWS,
) -> Report:
    """Asks a loss every law that it claims.

    Args:
        loss: an `Objective`, or a function (logp, old_logp, advantage, mask) ↦ scalar in NumPy, PyTorch or JAX. NumPy
            losses are differentiated by central differences, unless they return something with `.value` and `.logp_grad`.
        like: the objective whose claims it shares, with its numbers: replace(GSPO, surrogate=Clip(0.2, 0.2)) for another
            band.
        seed: of the draws; equal seeds, equal report.
        claims, without: more claims, and claims of `like` that it does not make.
        framework: NUMPY, TORCH or JAX; None: found out.
        names: how the loss is called, see `Names`.
        examples: per law.
        laws: which ones, by default all.

    Returns: `Report` with `.ok` and `.broken`, and `.unchecked` for a surrogate or gate that the kit does not know: everything
    around its formula is checked, and its slope against its gain, but not that it is the formula you meant. Print it.

    Raises: TypeError if `loss` cannot be called.

    >>> from gspo_core import GSPO, laws
    >>> laws.check(GSPO, examples=5).ok
    True
    """
    subject = subject_of(loss, framework=framework, names=names)
    target = loss if isinstance(loss, Objective) and like is GSPO else like
    setting = Setting(target, (subject.claims(target) | set(claims)) - set(without))
    verdicts = tuple(run(law, subject, setting, seed, examples) for law in laws)
    return Report(subject.name, _name_of(target), subject.framework.name, seed, verdicts, on_trust(target))


Z_SCORE = ZScore()


def check_advantages(
    fn: Callable[[Any, Any], Any],
    like: Normaliser = Z_SCORE,
    seed: int = 0,
    *,
    convert: Callable[[Any], Any] = np.asarray,
    examples: int = EXAMPLES,
    laws: Iterable[Law] = ADVANTAGE_LAWS,
) -> Report:
    """Asks a function (rewards [N], group_ids [N]) ↦ advantages [N] the laws of group advantages.

    `like` is the normaliser that it is said to be: ZScore(ddof, eps), Centred() or LeaveOneOut(). `convert` turns NumPy
    arrays into the function's own.

    >>> from gspo_core import group_advantages, laws
    >>> laws.check_advantages(group_advantages, examples=5).ok
    True
    """
    subject, setting = AdvantageFunction(_title(fn), fn, convert), Stated(like)
    return Report(subject.name, str(like), "", seed, tuple(run(law, subject, setting, seed, examples) for law in laws))


def check_clip_fraction(
    fn: Callable[..., Any],
    like: Objective = GSPO,
    seed: int = 0,
    *,
    per_token: bool = False,
    convert: Callable[[Any], Any] = np.asarray,
    examples: int = EXAMPLES,
    laws: Iterable[Law] = FRACTION_LAWS,
) -> Report:
    """Asks a function (logp, old_logp, advantage, mask) ↦ fraction whether it is the clip fraction of an objective.

    `per_token` says that it is a fraction of tokens, else of non-empty responses.
    """
    subject = ClipFraction(_title(fn), fn, per_token, convert)
    setting = Setting(like, implied(like))
    verdicts = tuple(run(law, subject, setting, seed, examples) for law in laws)
    return Report(subject.name, _name_of(like), "", seed, verdicts)


def _name_of(objective: Objective) -> str:
    from gspo_core.objectives import presets  # noqa: PLC0415 - only for a name

    named = {value: name for name, value in vars(presets).items() if isinstance(value, Objective)}
    if objective in named:
        return named[objective]
    for value, name in named.items():
        if replace(value, surrogate=objective.surrogate) == objective:
            return f"{name} with {objective.surrogate}"
    return str(objective)
