"""A row of docs/crosswalk.md: what a user of a trainer sets, what it computes, what is written here; and the comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import gspo_core
import gspo_core.kl
import gspo_core.layouts
import gspo_core.objectives
import gspo_core.selection


@dataclass(frozen=True)
class Row:
    """One setting of one trainer."""

    host: str
    """The trainer, as its section is called."""
    settings: dict[str, Any]
    """What differs from the trainer's defaults; a key with a dot is an option of an option."""
    formula: str
    """What is maximised, as the page writes it; only for people."""
    ours: str
    """A Python expression: an objective, or calls with the names of `Batch`."""
    of: str = "loss and gradient"
    """What is equal: "loss and gradient", "gradient", the same with "for A > 0", or "differs"."""
    kind: str = ""
    """Its configuration class or loss, where it has more than one."""


class Batch(NamedTuple):
    """Responses that are padded on the right, off policy; NumPy, float64."""

    logp: Any
    old_logp: Any
    A: Any
    mask: Any
    prompts: Any


class Term(NamedTuple):
    """A loss, or a part of one, and its gradient with respect to the log-probs."""

    value: Any
    grad: Any

    def __add__(self, other: Any) -> Term:
        return Term(self.value + other.value, self.grad + other.grad)

    def __rmul__(self, factor: Any) -> Term:
        return Term(factor * self.value, factor * self.grad)


PLANTED = {0: [1.24, 25.0, 4.5, 0.45, 1.1], 2: [0.7, 3.5, 4.5, 5.5, 25.0, 1.1, 0.9]}
"""Ratios between the bounds that rows differ in, for a response with A > 0 and one with A < 0, in the batch of wide spread."""
REFERENCE = 0.9
"""Log-probs of the reference policy over those of the old one, where there is a KL term."""
LENGTHS = np.array([5, 1, 7, 3, 2, 6, 4, 4])
WIDE = 1.0
SPREADS = (WIDE, 0.25, 1e-3)
"""Of log ratios: one beyond most bounds, one around the clip range of PPO, one around that of GSPO's paper."""


def written(row: Row) -> str:
    """The settings as a user of the trainer writes them."""
    if row.host == "OpenRLHF":
        words = {k: " ".join(f"{x:g}" for x in v) if isinstance(v, tuple) else v for k, v in row.settings.items()}
        return " ".join(f"--actor.{name} {value}" for name, value in words.items()) or "no option"
    if row.host in {"verl", "SkyRL"}:
        return " ".join(f"{name}={value}" for name, value in row.settings.items()) or "no option"
    kind = row.kind or {"TRL": "GRPOConfig", "Liger-Kernel": "LigerFusedLinearGRPOLoss"}[row.host]
    return f"{kind}({', '.join(f'{name}={value!r}' for name, value in row.settings.items())})"


def batch(spread: float, positive: bool = False) -> Batch:
    """Two responses to each of four prompts, one of one token; what stands in masked slots is finite and must not matter."""
    random = np.random.default_rng(round(1000 * spread))
    mask = np.arange(LENGTHS.max()) < LENGTHS[:, None]
    old = -random.uniform(0.5, 5.0, mask.shape)
    logp = np.minimum(old + spread * random.normal(size=mask.shape), -0.02)
    if spread == WIDE:
        for i, ratios in PLANTED.items():
            old[i, : len(ratios)] = -4.0
            logp[i, : len(ratios)] = np.log(ratios) - 4.0
    advantage = random.uniform(0.3, 2.0, len(mask)) * (1 if positive else np.tile([1, -1, -1, 1], 2))
    return Batch(np.where(mask, logp, -0.7), np.where(mask, old, -0.4), advantage, mask, np.arange(len(mask)) // 2)


def objective(row: Row) -> Any:
    """The objective that the row names; None where it names calls."""
    return None if "policy_loss" in row.ours else eval(row.ours, _scope(batch(WIDE)))


def here(row: Row, given: Batch) -> Term:
    """What this library computes for the row's expression."""
    found = eval(row.ours, _scope(given))
    if isinstance(found, gspo_core.Objective):
        loss = gspo_core.policy_loss(found, given.logp, given.old_logp, given.A, gspo_core.Padded(given.mask))
        return Term(loss.value, loss.logp_grad)
    return Term(*found)


def compare(row: Row, theirs: Callable[[Batch], tuple[Any, Any]], rtol: float = 1e-6) -> None:
    """Fails unless the row's claim holds on three batches. `theirs` returns the loss and its gradient, as NumPy."""
    for spread in SPREADS:
        given = batch(spread, positive=row.of.endswith("A > 0"))
        value, grad = theirs(given)
        ours = here(row, given)
        size = np.abs(ours.grad).max()
        assert size > 1e-5, "something is learned"
        if row.of == "differs":
            assert spread < WIDE or np.abs(grad - ours.grad)[given.mask].max() > 0.05 * size
            continue
        np.testing.assert_allclose(grad * given.mask, ours.grad, rtol=rtol, atol=rtol * size)
        if row.of.startswith("loss"):
            np.testing.assert_allclose(value, ours.value, rtol=rtol, atol=rtol)


def _scope(given: Batch) -> dict[str, Any]:
    """The names in which an expression is evaluated."""
    layout = gspo_core.Padded(given.mask)
    modules = (gspo_core.kl, gspo_core.layouts, gspo_core.selection, gspo_core.objectives, gspo_core)
    names = {name: value for module in modules for name, value in vars(module).items()}

    def policy_loss(*args: Any, **options: Any) -> Term:
        loss = gspo_core.policy_loss(*args, **options)
        return Term(loss.value, loss.logp_grad)

    def kl_penalty(*args: Any, **options: Any) -> Term:
        term = gspo_core.kl_penalty(*args, **options)
        return Term(term.value, term.logp_grad)

    calls = {"policy_loss": policy_loss, "kl_penalty": kl_penalty, "replace": dataclasses.replace, "np": np}
    sizes = {"layout": layout, "lengths": given.mask.sum(1), "T": given.mask.shape[1]}
    covariance = gspo_core.selection.token_covariance(given.logp, given.A, layout)
    return {**names, **given._asdict(), **sizes, "ref_logp": REFERENCE * given.old_logp, "cov": covariance, **calls}
