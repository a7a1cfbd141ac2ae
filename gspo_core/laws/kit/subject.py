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
from .logits import with_logits
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


Inputs = dict[str, Any]
Call = Callable[[Inputs], Any]
"""Named arrays ↦ the return value of the loss."""


class LossError(Exception):
    """The loss raised an error on a valid batch."""

    def __init__(self, batch: Any, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.batch = batch


class CompilerRefusal(Exception):
    """A compiler cannot compile the loss: its limit, of which no law speaks. The message is the compiler's first line."""


@contextmanager
def loss_errors_on(batch: Any) -> Iterator[None]:
    """Turns an exception inside into a LossError on this batch."""
    try:
        with np.errstate(all="ignore"):
            yield
    except CompilerRefusal:
        raise
    except Exception as error:  # whatever a loss raises
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


@dataclass(frozen=True)
class Names:
    """The argument names of a loss that is not called as loss(logp, old_logp, advantage, mask) by position.

    An input with a name is passed by that keyword, the others by position in that order. `denominator`, `ref_logp` and
    `sampler_logp` are passed only if they have a name. With `logits` and `tokens` the loss gets [N, T, 2] logits whose
    log-softmax at the tokens is log π − 1, and old log-probs that are lower by 1, too, in place of log-probs.
    """

    logp: str | None = None
    old_logp: str | None = None
    advantage: str | None = None
    mask: str | None = None
    denominator: str | None = None
    """Keyword of the number to divide by: non-empty responses, or tokens."""
    ref_logp: str | None = None
    """Keyword of the reference policy's log-probs."""
    sampler_logp: str | None = None
    """Keyword of the sampler's log-probs."""
    logits: str | None = None
    """Keyword of logits, [N, T, V]; slot t scores token t."""
    tokens: str | None = None
    """Keyword of the token ids, [N, T]."""
    needs_denominator: bool = False
    """Where a law gives no denominator, pass the number of non-empty rows, not None."""
    token_advantages: bool = False
    """Pass advantages as [N, T] always."""
    float_mask: bool = False
    """Pass the mask as 0.0 and 1.0, not as booleans."""

    def bound(self, fn: Callable[..., Any]) -> Call:
        """The function as a call with named arrays."""

        def call(inputs: Inputs) -> Any:
            if self.logits is not None:
                inputs = with_logits(inputs)
            positional = [inputs[k] for k in FOUR if k in inputs and getattr(self, k) is None]
            keyword = {getattr(self, k): x for k, x in inputs.items() if getattr(self, k) is not None}
            return fn(*positional, **keyword)

        return call

    def inputs(self, batch: Batch, dtype: Any) -> Inputs:
        """The arrays of a batch in the given dtype."""
        advantage = batch.advantage
        if self.token_advantages and not batch.per_token:
            advantage = np.repeat(advantage[:, None], batch.mask.shape[1], axis=1)
        found: Inputs = {"logp": batch.logp, "old_logp": batch.old_logp, "advantage": advantage}
        # Where a law does not speak of them, the KL term is 0 and the correction 1.
        silent = {"ref_logp": batch.logp, "sampler_logp": batch.old_logp}
        given = {k: silent[k] if getattr(batch, k) is None else getattr(batch, k) for k in silent}
        found |= {k: x for k, x in given.items() if getattr(self, k) is not None}
        cast: Inputs = {k: x.astype(dtype) for k, x in found.items()}
        cast["mask"] = batch.mask.astype(dtype) if self.float_mask else batch.mask.copy()
        if self.denominator is not None:
            own = float(max(1, batch.mask.any(axis=1).sum())) if self.needs_denominator else None
            cast["denominator"] = own if batch.denominator is None else batch.denominator
        if self.tokens is not None:
            cast["tokens"] = np.zeros(batch.mask.shape, dtype=np.int64)
        return cast


FOUR = ("logp", "old_logp", "advantage", "mask")
"""The arguments by position."""
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
        inputs = self.names.inputs(batch, dtype or self.dtype)
        with loss_errors_on(batch):
            return self._evaluate(batch, inputs, other or self.call)

    def value(self, batch: Batch) -> LossResult:
        """The value alone, in one call; the gradient is left empty."""
        with loss_errors_on(batch):
            number = np.asarray(self.framework.evaluate(self.call, self.names.inputs(batch, self.dtype)).value)
        return LossResult(float(number), np.zeros(0), max(_eps(number), self.resolution), 0.0)

    def leaks(self, batch: Batch) -> dict[str, Floats]:
        """Gradients that reach old log-probs and advantages; empty without autodiff."""
        with loss_errors_on(batch):
            return self.framework.leaks(self.call, self.names.inputs(batch, self.dtype))

    def changed(self, batch: Batch) -> tuple[str, ...]:
        """Names of the inputs that the loss writes into."""
        with loss_errors_on(batch):
            return self.framework.changed(self.call, self.names.inputs(batch, self.dtype))

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
            Claim.SAMPLER: self.names.sampler_logp is not None,
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
