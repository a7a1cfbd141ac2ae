"""What is under test: an objective, or anybody's loss function, made to answer with a value and a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from gspo_core.layouts.padded import Padded
from gspo_core.objectives.loss import Objective, policy_loss

from .batch import Batch, Floats
from .claim import Claim, implied


class Outcome(NamedTuple):
    """A loss on one batch."""

    value: float
    weight: Floats
    """[N, T] ∂value/∂logp."""
    eps: float
    """Unit of rounding of what was returned (float32's at most)."""
    noise: float
    """What the weight may be off by because it was found by differences, in units of the value's scale."""
    log_ratio: Any = None
    """Units: what the loss says of their log ratios, if it does."""
    clipped: Any = None
    """Units: which of them it says are clipped, if it does."""


class Answer(NamedTuple):
    """What a loss returned, as NumPy arrays."""

    value: Any
    """[] the loss."""
    weight: Any
    """[N, T] ∂value/∂logp; None if neither the loss nor the library has one."""
    log_ratio: Any = None
    """Units, if the loss says so."""
    clipped: Any = None
    """Units, if the loss says so."""


Inputs = dict[str, Any]
Call = Callable[[Inputs], Any]
"""From named arrays to whatever the loss returns."""


class Raised(Exception):
    """A loss raised an error on a legal batch."""

    def __init__(self, batch: Any, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.batch = batch


@contextmanager
def blamed_on(batch: Any) -> Iterator[None]:
    """An error inside is the loss's, on this batch."""
    try:
        with np.errstate(all="ignore"):
            yield
    except Exception as error:  # whatever a loss raises
        raise Raised(batch, error) from error


class Framework(Protocol):
    """How a library differentiates."""

    @property
    def name(self) -> str:
        """For reports."""

    def outcome(self, call: Call, inputs: Inputs) -> Answer:
        """What the loss returns for these arrays, and the library's gradient of it if it does not bring its own."""

    def leaks(self, call: Call, inputs: Inputs) -> dict[str, Floats]:
        """Gradients with respect to old_logp and advantage; empty without autodiff."""

    def counterpart(self, call: Call) -> Call | None:
        """The same function compiled if it is otherwise run eagerly, eager if it is otherwise compiled; or None."""


@dataclass(frozen=True)
class Names:
    """How a loss is called, where it is not called (logp, old_logp, advantage, mask) by position.

    A name means that the argument is passed by that keyword. The last three are inputs that a loss need not have, and
    are passed only if they are named here.
    """

    logp: str | None = None
    old_logp: str | None = None
    advantage: str | None = None
    mask: str | None = None
    denominator: str | None = None
    """Takes the number to divide by: non-empty responses, or tokens."""
    ref_logp: str | None = None
    """Takes a reference policy's log-probs."""
    sampler_logp: str | None = None
    """Takes the sampler's log-probs."""
    token_advantages: bool = False
    """Wants advantages [N, T] always."""
    float_mask: bool = False
    """Wants the mask as 0.0 and 1.0."""

    def bound(self, fn: Callable[..., Any]) -> Call:
        """The function, called with named arrays."""

        def call(inputs: Inputs) -> Any:
            positional = [inputs[k] for k in ("logp", "old_logp", "advantage", "mask") if getattr(self, k) is None]
            keyword = {getattr(self, k): x for k, x in inputs.items() if getattr(self, k) is not None}
            return fn(*positional, **keyword)

        return call

    def inputs(self, batch: Batch, dtype: Any) -> Inputs:
        """The batch's arrays, in a dtype."""
        advantage = batch.advantage
        if self.token_advantages and not batch.per_token:
            advantage = np.repeat(advantage[:, None], batch.mask.shape[1], axis=1)
        found: Inputs = {"logp": batch.logp, "old_logp": batch.old_logp, "advantage": advantage}
        given = {"ref_logp": batch.ref_logp, "sampler_logp": batch.sampler_logp}
        found |= {k: (batch.old_logp if x is None else x) for k, x in given.items() if getattr(self, k) is not None}
        cast: Inputs = {k: x.astype(dtype) for k, x in found.items()}
        cast["mask"] = batch.mask.astype(dtype) if self.float_mask else batch.mask.copy()
        if self.denominator is not None:
            cast["denominator"] = batch.denominator
        return cast


@dataclass(frozen=True, eq=False)
class Subject:
    """A loss under test."""

    name: str
    call: Call
    framework: Framework
    names: Names = field(default_factory=Names)
    objective: Objective | None = None
    """Set if the subject is one of our own objectives."""
    own_gradient: bool = True
    """The gradient is the loss's own; False: central differences."""
    step: float = 2.0**-18
    """Of the differences: adding it to numbers below 8 rounds by 2^-50, 2e-10 of the step."""

    def __call__(self, batch: Batch, dtype: Any = np.float64, other: Call | None = None) -> Outcome:
        """Value and gradient; a loss that raises breaks whatever is asked of it."""
        inputs = self.names.inputs(batch, dtype)
        with blamed_on(batch):
            return self._outcome(batch, inputs, other or self.call)

    def leaks(self, batch: Batch) -> dict[str, Floats]:
        """Gradients that reach old log-probs and advantages; nothing without autodiff."""
        with blamed_on(batch):
            return self.framework.leaks(self.call, self.names.inputs(batch, np.float64))

    def _outcome(self, batch: Batch, inputs: Inputs, call: Call) -> Outcome:
        answer = self.framework.outcome(call, inputs)
        number, more = np.asarray(answer.value), {"log_ratio": answer.log_ratio, "clipped": answer.clipped}
        if number.shape != ():
            raise TypeError(f"expected a scalar loss, got shape {list(number.shape)}")
        eps = float(np.finfo(np.float64 if number.dtype == np.float64 else np.float32).eps)
        if answer.weight is not None:
            return Outcome(float(number), np.asarray(answer.weight, dtype=np.float64), eps, 0.0, **more)
        return Outcome(float(number), self._differences(inputs, batch), eps, 64.0 * max(eps, 2.3e-16) / self.step, **more)

    def _differences(self, inputs: Inputs, batch: Batch) -> Floats:
        """Fourth-order central differences at the valid slots; the error is h⁴ f⁽⁵⁾/30."""
        logp, out = inputs["logp"].astype(np.float64), np.zeros(batch.mask.shape)

        def at(index: Any, steps: int) -> float:
            moved = logp.copy()
            moved[index] += steps * self.step
            return float(self.framework.outcome(self.call, {**inputs, "logp": moved}).value)

        for index in zip(*np.nonzero(batch.mask), strict=True):
            out[index] = (8 * (at(index, 1) - at(index, -1)) - (at(index, 2) - at(index, -2))) / (12 * self.step)
        return out

    @property
    def kink(self) -> float:
        """How far from a bound a unit must be for its gradient to be well defined: rounding, or the differences' reach."""
        return 1e-9 if self.own_gradient else 4 * self.step

    def claims(self, like: Objective) -> frozenset[Claim]:
        """What the subject claims if it is said to be like an objective."""
        ours = (Claim.EDGES, Claim.LAYOUTS, Claim.REPORTS, Claim.INERT, Claim.RISING)
        offered = {
            **dict.fromkeys(ours, self.objective is not None),
            Claim.OWN_GRADIENT: self.own_gradient,
            Claim.DENOMINATOR: self.names.denominator is not None,
            Claim.KL: self.names.ref_logp is not None,
            Claim.SAMPLER: self.names.sampler_logp is not None,
            Claim.COMPILES: self.framework.counterpart(self.call) is not None,
        }
        return implied(like) | {claim for claim, holds in offered.items() if holds}


def of_objective(objective: Objective, framework: Framework) -> Subject:
    """One of our own objectives, through `policy_loss`."""

    def call(inputs: Inputs) -> Any:
        return policy_loss(
            objective,
            inputs["logp"],
            inputs["old_logp"],
            inputs["advantage"],
            Padded(inputs["mask"]),
            denominator=inputs["denominator"],
        )

    return Subject(str(objective), call, framework, Names(denominator="denominator"), objective)
