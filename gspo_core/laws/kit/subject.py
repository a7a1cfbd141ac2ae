"""The loss under test: an objective, or any loss function, called to give a value and a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from gspo_core.layouts.padded import Padded
from gspo_core.objectives.loss import Objective, policy_loss

from .batch import Batch, Floats
from .claim import Claim, implied
from .names import Call, Inputs, Names
from .oracle import is_known, scalar_loss


class LossResult(NamedTuple):
    """Value and gradient of a loss on one batch, with their error budgets."""

    value: float
    """The loss."""
    weight: Floats
    """[N, T] ∂value/∂logp."""
    eps: float
    """Unit of rounding of the returned value: that of float64, or of float32 for anything narrower."""
    noise: float
    """Error of a gradient by finite differences, relative to the scale of the value; 0 for an exact gradient."""
    log_ratio: Any = None
    """Units: their log ratios, if the loss reports them."""
    clipped: Any = None
    """Units: True where clipped, if the loss reports it."""


class RawResult(NamedTuple):
    """The return value of a loss as NumPy arrays."""

    value: Any
    """[] the loss."""
    weight: Any
    """[N, T] ∂value/∂logp; None if neither the loss nor the library has one."""
    log_ratio: Any = None
    """Units: their log ratios, if the loss reports them."""
    clipped: Any = None
    """Units: True where clipped, if the loss reports it."""


class LossError(Exception):
    """The loss raised an error on a valid batch."""

    def __init__(self, batch: Any, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.batch = batch


class Untestable(Exception):
    """A law that cannot be tested on this loss, for the reason in the message."""


class CompilerRefusal(Untestable):
    """A compiler cannot compile the loss: its limit, of which no law speaks. The message is the compiler's first line."""


class NeverGiven(Untestable):
    """The law is about batches that the loss is never given. The message says which."""


@contextmanager
def loss_errors_on(batch: Any) -> Iterator[None]:
    """Turns an exception inside into a LossError on this batch."""
    try:
        with np.errstate(all="ignore"):
            yield
    except Untestable:
        raise
    except (Exception, SystemExit) as error:  # whatever a loss raises: exit(0) would end the check as if no law were broken
        raise LossError(batch, error) from error


class Framework(Protocol):
    """An array library: how to call a loss with it, and how to differentiate."""

    @property
    def name(self) -> str:
        """The name that reports show."""

    @property
    def autodiff(self) -> bool:
        """Whether the library differentiates a loss itself."""

    def evaluate(self, call: Call, inputs: Inputs) -> RawResult:
        """Value and gradient for these arrays: the gradient that the loss returns, else the library's."""

    def leaks(self, call: Call, inputs: Inputs) -> dict[str, Floats]:
        """Gradients with respect to what should be a constant: every real input but logp; empty without autodiff."""

    def counterpart(self, call: Call) -> Call | None:
        """The compiled function if calls are eager, the eager one if calls are compiled; None without a compiler.

        It raises CompilerRefusal for a loss that cannot be compiled.
        """

    def changed(self, call: Call, inputs: Inputs) -> tuple[str, ...]:
        """Names of the arrays that a call writes into."""


def on_filled_rows(ask: Callable[[Batch], LossResult], batch: Batch) -> LossResult:
    """The result for the rows that hold a token, with gradient 0 in the others; 0 without a call if no row holds one."""
    rows, weight = batch.mask.any(axis=1), np.zeros(batch.mask.shape)
    if not rows.any():
        return LossResult(0.0, weight, float(np.finfo(np.float64).eps), 0.0)
    found = ask(batch.rows(rows))
    if found.weight.size:  # a value alone has no gradient
        weight[rows] = found.weight
    return found._replace(weight=weight)


THREE = Batch.of([[0.0, 0.1, 0.2], [0.2, 0.1, 0.1]], [1.0, -3.0], [[1, 1, 1], [1, 1, 0]], base=-0.7)


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
    """Whether the gradient comes from the loss or from autodiff; False: from finite differences."""
    step: float = 2.0**-18
    """Step of the finite differences. Adding it to numbers below 8 rounds by 2⁻⁵⁰, which is 2e-10 of the step."""
    dtype: Any = np.float64
    """Type of the arrays that the loss gets, where a law does not ask for another."""
    resolution: float = 0.0
    """Unit of rounding of the arithmetic inside the loss, if it is larger than that of the value's type."""

    def __call__(self, batch: Batch, dtype: Any = None, other: Call | None = None) -> LossResult:
        """Value and gradient. Raises LossError if the loss raises, which breaks the law that is being checked."""

        def ask(given: Batch) -> LossResult:
            inputs = self.names.inputs(given, dtype or self.dtype)
            with loss_errors_on(given):
                return self._evaluate(given, inputs, other or self.call)

        return self.on_given_rows(ask, batch)

    def on_given_rows(self, ask: Callable[[Batch], LossResult], batch: Batch) -> LossResult:
        """The result for the rows that the loss is given: all of them, or those with a token."""
        return ask(batch) if self.names.empty_rows else on_filled_rows(ask, batch)

    def value(self, batch: Batch) -> LossResult:
        """The value alone, in one call; the gradient is left empty."""

        def ask(given: Batch) -> LossResult:
            with loss_errors_on(given):
                number = np.asarray(self.framework.evaluate(self.call, self.names.inputs(given, self.dtype)).value)
            return LossResult(float(number), np.zeros(0), max(_eps(number), self.resolution), 0.0)

        return self.on_given_rows(ask, batch)

    def leaks(self, batch: Batch) -> dict[str, Floats]:
        """Gradients that reach old log-probs and advantages; empty without autodiff."""
        given = batch if self.names.empty_rows else batch.rows(batch.mask.any(axis=1))
        if not len(given.mask):
            return {}
        with loss_errors_on(given):
            return self.framework.leaks(self.call, self.names.inputs(given, self.dtype))

    def changed(self, batch: Batch) -> tuple[str, ...]:
        """Names of the inputs that the loss writes into."""
        given = batch if self.names.empty_rows else batch.rows(batch.mask.any(axis=1))
        if not len(given.mask):
            return ()
        with loss_errors_on(given):
            return self.framework.changed(self.call, self.names.inputs(given, self.dtype))

    def _evaluate(self, batch: Batch, inputs: Inputs, call: Call) -> LossResult:
        raw = self.framework.evaluate(call, inputs)
        number, more = np.asarray(raw.value), {"log_ratio": raw.log_ratio, "clipped": raw.clipped}
        if number.shape != ():
            raise TypeError(f"expected a scalar loss, got shape {list(number.shape)}")
        eps = max(_eps(number), self.resolution)
        if raw.weight is not None:
            return LossResult(float(number), np.asarray(raw.weight, dtype=np.float64), eps, 0.0, **more)
        return LossResult(float(number), self._differences(inputs, batch), eps, 64.0 * max(eps, 2.3e-16) / self.step, **more)

    def _differences(self, inputs: Inputs, batch: Batch) -> Floats:
        """Fourth-order central differences at the valid slots; the error is h⁴ f⁽⁵⁾/30."""
        logp, out = inputs["logp"].astype(np.float64), np.zeros(batch.mask.shape)

        def at(index: Any, steps: int) -> float:
            moved = logp.copy()
            moved[index] += steps * self.step
            there = {**inputs, "logp": moved.astype(inputs["logp"].dtype)}
            return float(self.framework.evaluate(self.call, there).value)

        for index in zip(*np.nonzero(batch.mask), strict=True):
            out[index] = (8 * (at(index, 1) - at(index, -1)) - (at(index, 2) - at(index, -2))) / (12 * self.step)
        return out

    @property
    def kink(self) -> float:
        """Distance from a bound at which the gradient of a unit is well defined: rounding, or the reach of the differences."""
        return max(1e-9 if self.own_gradient else 4 * self.step, 300.0 * self.resolution)

    def claims(self, like: Objective) -> frozenset[Claim]:
        """The claims of this loss if it is declared to be like an objective."""
        ours = (Claim.EDGES, Claim.LAYOUTS, Claim.REPORTS, Claim.INERT, Claim.RISING)
        offered = {
            **dict.fromkeys(ours, self.objective is not None),
            Claim.OWN_GRADIENT: self.own_gradient,
            Claim.DENOMINATOR: self.names.denominator is not None,
            Claim.KL: self.names.ref_logp is not None,
            **dict.fromkeys((Claim.SAMPLER, Claim.WHOLE_WEIGHT), self.names.sampler_logp is not None),
            Claim.DETACHED: self.objective is None and self.framework.autodiff,
            Claim.COMPILES: self.framework.counterpart(self.call) is not None,
            Claim.PRINTED: self._is_printed(like),
        }
        refused = frozenset() if self._takes_token_advantages() else {Claim.TOKEN_ADVANTAGES}
        return (implied(like) | {claim for claim, holds in offered.items() if holds}) - refused

    def _is_printed(self, like: Objective) -> bool:
        """Whether a weight that is held constant has the gradient of the formula and another value, which is a convention."""
        if self.objective is not None or not self.own_gradient or like.surrogate.exact or not is_known(like):
            return False
        arrays = (THREE.logp, THREE.old_logp, THREE.token_advantage, THREE.mask)
        found, wanted = self(THREE), scalar_loss(like, *(x.tolist() for x in arrays))
        other = abs(found.value - wanted.value) > 1e-6 * wanted.scale
        return bool(other and np.allclose(found.weight, wanted.weight, rtol=1e-6, atol=1e-12))

    def _takes_token_advantages(self) -> bool:
        """Whether [N, T] advantages, equal in each row, give the loss of [N]; a loss for [N] alone need not take them."""
        if self.objective is not None or self.names.token_advantages:
            return True
        wide = replace(THREE, advantage=np.repeat(THREE.advantage[:, None], 3, axis=1))
        try:
            found, plain = self.value(wide), self.value(THREE)
        except LossError:
            return False
        return bool(abs(found.value - plain.value) <= 1e-3 * abs(plain.value))


def _eps(number: Any) -> float:
    """Unit of rounding of a returned value."""
    return float(np.finfo(np.float64 if number.dtype == np.float64 else np.float32).eps)


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
