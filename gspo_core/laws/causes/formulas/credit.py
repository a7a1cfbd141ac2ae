"""Suspects of the sign, of constant factors, and of the advantages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch, Floats


def _filled(batch: Batch) -> Floats:
    """The advantages of tokens or of non-empty responses, in one row."""
    return batch.advantage[batch.mask if batch.per_token else batch.mask.any(axis=1)]


def _centred(batch: Batch) -> Floats:
    own = _filled(batch)
    return batch.advantage - (own.mean() if own.size else 0.0)


def _deviation(batch: Batch, ddof: int) -> float:
    own = _filled(batch)
    return float(own.std(ddof=ddof)) if own.size > ddof else 0.0


def _z_score(ddof: int, eps: float) -> Callable[[Batch], Floats]:
    return lambda batch: _centred(batch) / (_deviation(batch, ddof) + eps + 1e-300)


def _per_std(ddof: int, eps: float, always: bool) -> Callable[[Batch], Floats]:
    """Divided by σ + eps; where σ is 0, too, only if `always`."""

    def divided(batch: Batch) -> Floats:
        std = _deviation(batch, ddof)
        return batch.advantage / (std + eps) if std > 0 or (always and eps) else batch.advantage

    return divided


def _without_equals(batch: Batch) -> Floats:
    own = _filled(batch)
    return np.zeros(batch.advantage.shape) if own.size > 1 and not np.ptp(own) else batch.advantage


def _per_size(eps: float) -> Callable[[Batch], Floats]:
    """Divided by √mean A² + eps."""

    def divided(batch: Batch) -> Floats:
        own = _filled(batch)
        size = float(np.sqrt((own**2).mean())) if own.size else 1.0
        return batch.advantage / max(size + eps, 1e-300)

    return divided


def _collapsed(batch: Batch) -> Floats:
    if not batch.per_token:
        return batch.advantage
    mean = batch.token_advantage.sum(axis=1) / np.maximum(batch.lengths, 1)
    return np.where(batch.mask, mean[:, None], batch.advantage)


def _first(batch: Batch) -> Floats:
    return np.repeat(batch.advantage[:, :1], batch.advantage.shape[1], axis=1) if batch.per_token else batch.advantage


def _next(batch: Batch) -> Floats:
    return np.roll(batch.advantage, 1, axis=1) if batch.per_token else batch.advantage


def _less_the_others(batch: Batch) -> Floats:
    """Less the mean of the advantages of the other responses; as it is for a single one."""
    own, count = _filled(batch), int(batch.mask.any(axis=1).sum())
    if batch.per_token or count < 2:
        return batch.advantage
    return np.asarray(batch.advantage - (own.sum() - batch.advantage) / (count - 1))


INSIDE = "pass the advantages as they are: they are normalised before the loss"
ADVANTAGES: tuple[tuple[str, str, Callable[[Batch], Floats]], ...] = (
    ("the mean of the advantages is subtracted inside the loss", INSIDE, _centred),
    ("the mean of the other responses' advantages is subtracted inside the loss", INSIDE, _less_the_others),
    (
        "a batch whose advantages are all equal has loss 0, as if there were nothing to learn",
        "leave it to the advantages, which are 0 for a group of equal rewards",
        _without_equals,
    ),
    ("the sign of the advantage is lost: |A|", "use A", lambda batch: np.abs(batch.advantage)),
    ("negative advantages are set to 0", "use A, of either sign", lambda batch: np.maximum(batch.advantage, 0.0)),
    ("positive advantages are set to 0", "use A, of either sign", lambda batch: np.minimum(batch.advantage, 0.0)),
    ("advantages are cut to [−1, 1]", "use A, whatever its size", lambda batch: np.clip(batch.advantage, -1.0, 1.0)),
    ("only the sign of the advantage is used", "use A, whatever its size", lambda batch: np.sign(batch.advantage)),
    (
        "token advantages collapse: every token of a response gets their mean",
        "multiply each token's ratio by its own advantage, as in GSPO eq. 13",
        _collapsed,
    ),
    ("every token of a response gets the advantage of its first one", "use each token's own advantage", _first),
    ("token advantages are off by one slot", "use the slices of advantages and log-probs that belong together", _next),
)


DDOF = {0: "", 1: " (ddof 1)"}
DEVIATIONS = [
    (f"advantages are {what} of the batch{DDOF[ddof]} inside the loss", INSIDE, change)
    for ddof in DDOF
    for eps in (0.0, 1e-8, 1e-6, 1e-5, 1e-4)
    for what, change in (
        ("normalised by mean and standard deviation", _z_score(ddof, eps)),
        ("divided by the standard deviation", _per_std(ddof, eps, False)),
        ("divided by the standard deviation", _per_std(ddof, eps, True)),
        *([("divided by the root mean square", _per_size(eps))] if ddof == 0 else []),
    )
]
"""(sentence, fix, advantages that the loss takes instead), with the usual epsilons."""


def _constant(value: float) -> Callable[[Batch], Floats]:
    return lambda batch: np.full(len(batch.mask), value)


def _advantage(change: Callable[[Batch], Floats]) -> Callable[[Batch], Batch]:
    return lambda batch: replace(batch, advantage=change(batch))


def advantages() -> list[Suspect]:
    """Suspects of the advantages, and the detached loss."""
    found = [Suspect(words, fix, batch=_advantage(change)) for words, fix, change in (*ADVANTAGES, *DEVIATIONS)]
    detached = "the gradient is 0 although the value is right: log π is detached", "let the gradient flow through log π"
    return [*found, Suspect(*detached, slope=0.0)]


def weights_by_sign(good: float, bad: float) -> list[Suspect]:
    """Other weights for bad responses than for good ones, as measured on policy."""
    if not (np.isfinite([good, bad]).all() and good > 0 and bad > 0) or abs(good - bad) <= 1e-6 * good:
        return []

    def by(batch: Batch) -> Floats:
        return batch.advantage * np.where(batch.advantage < 0, bad, good)

    words = f"bad responses weigh {bad:.6g} times what the formula gives, and good ones as much as they should"
    if abs(good - 1.0) > 1e-6:
        words = f"good responses weigh {good:.6g} times what the formula gives, and bad ones {bad:.6g} times"
    return [Suspect(words, "use A as it is, for either sign", batch=_advantage(by))]


def constants(value: float, slope: float) -> list[Suspect]:
    """Constant factors of the loss, and of the gradient alone, as measured on one response on policy."""
    found = [Suspect("the sign is flipped: a good response is made less likely", "return minus this", factor=_constant(-1.0))]
    if np.isfinite(value) and value not in (0.0, 1.0, -1.0):
        words = f"the loss is {_times(value)} what the formula gives"
        found.append(Suspect(words, f"divide by {value:.6g}", factor=_constant(value)))
    if np.isfinite(slope) and slope not in (0.0, 1.0):
        words = f"the value is right and the gradient is {_times(slope)} its derivative"
        found.append(Suspect(words, "look for a missing, or one more, stop-gradient (detach)", slope=slope))
    return found


def _times(x: float) -> str:
    """A factor in words.

    >>> _times(0.5), _times(3.0), _times(-2.0)
    ('half of', '3 times', '-2 times')
    """
    return "half of" if abs(x - 0.5) < 1e-9 else f"{x:.6g} times"
