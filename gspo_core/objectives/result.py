"""The results of loss functions: the value of a loss, its gradient with respect to the log-probs, and what was clipped."""

from __future__ import annotations

from typing import NamedTuple

from gspo_core._lib.array import read_if_possible, shape_of
from gspo_core.types import Array


class Loss(NamedTuple):
    """A policy loss as a value and a weight; −objective, to be minimised.

    A tuple of arrays and a flag, and so a pytree for JAX. It prints as its value and the share of clipped units: of
    sequences or turns, or of the tokens that have an advantage.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, policy_loss
    >>> zeros = np.zeros((1, 2))
    >>> loss = policy_loss(GSPO, zeros, zeros, np.array([1.0]), Padded(np.array([[True, True]])))
    >>> loss
    Loss(value=-1, clipped=0.0% of 1 sequences)
    >>> float(loss.value), loss.logp_grad.tolist(), loss.clipped.tolist(), float(loss.denominator)
    (-1.0, [[-0.5, -0.5]], [False], 1.0)
    """

    value: Array
    """[] the loss: −Σ units weight · gain."""
    logp_grad: Array
    """Token array: ∂value/∂logp in closed form, exactly 0 in masked slots."""
    log_ratio: Array
    """Units: log importance ratio (log s_i for a sequence ratio), 0 for empty sequences and in masked slots; nats."""
    clipped: Array
    """Units, boolean: the advantage is not zero, yet the gradient is exactly zero."""
    denominator: Array
    """[] what the sum was divided by: the batch's own count, or the one that was given."""
    on_policy: bool
    """True if no old log-probs were given: every ratio is 1 by definition and clipping is inert."""

    def __repr__(self) -> str:
        value = read_if_possible(self.value)
        number = _kind(self.value) if value is None or value.ndim else f"{float(value):.6g}"
        return f"{type(self).__name__}(value={number}, clipped={_share_clipped(self)})"


class _LinearFields(NamedTuple):
    value: Array
    logp_grad: Array
    log_ratio: Array
    clipped: Array
    denominator: Array
    on_policy: bool
    logp: Array | None = None
    """Token array: log-probs of every valid token, 0 in masked slots; None unless `return_logp=True`."""
    entropy: Array | None = None
    """Token array: entropies, 0 in masked slots; None without an entropy bonus and without `return_entropy=True`."""
    kl: Array | None = None
    """[] the KL estimate, before it is multiplied by β; None without a KL term."""
    policy: Loss | None = None
    """The policy loss alone, if a KL term or an entropy bonus was added to it; None: this loss is the policy loss."""


class LinearLoss(_LinearFields, Loss):  # type: ignore[misc]  # mypy allows one tuple among the bases; these begin alike
    """The loss of a `linear_policy_loss`: a `Loss` with four more fields, the same class in every backend.

    `value` = policy loss + β KL − entropy bonus, and `logp_grad` is its gradient with respect to the log-probs; `log_ratio`
    and `clipped` belong to the policy loss. Sequences without an advantage are left out of the forward pass, unless
    `return_logp=True`, `return_entropy=True` or a term needs them: their `log_ratio` is then 0 and was not measured. With
    `return_logp=True` every token is measured, and metrics are
    `batch_metrics(objective, loss, loss.logp, old_logp, advantage, layout)`.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Loss, Padded, policy_loss
    >>> zeros = np.zeros((1, 2))
    >>> loss = policy_loss(GSPO, zeros, zeros, np.array([1.0]), Padded(np.array([[True, True]])))
    >>> linear = LinearLoss(*loss, logp=zeros)
    >>> isinstance(linear, Loss), linear
    (True, LinearLoss(value=-1, clipped=0.0% of 1 sequences))
    """

    __slots__ = ()
    __repr__ = Loss.__repr__


def _share_clipped(loss: Loss) -> str:
    """For a reader: the share of units that are clipped, and how many units that is a share of."""
    value, clipped, weight = (read_if_possible(x) for x in (loss.value, loss.clipped, loss.logp_grad))
    if value is None or clipped is None or weight is None or value.ndim:
        return _kind(loss.clipped)
    units, count = "sequences" if clipped.ndim == 1 else "turns", clipped.size
    if clipped.shape == weight.shape:
        # Slots without a token are part of the array; tokens with an advantage are clipped or have a gradient.
        units, count = "tokens with an advantage", int((clipped | (weight != 0)).sum())
    return f"{100.0 * clipped.sum() / max(1, count):.1f}% of {count} {units}"


def _kind(x: Array) -> str:
    """Dtype and shape of an array whose numbers cannot be read; a placeholder as it prints itself."""
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        return repr(x)
    return f"{x.dtype}{list(shape_of(x))}"
