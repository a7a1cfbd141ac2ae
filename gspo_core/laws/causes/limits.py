"""How far a loss is right that is right on small batches: up to some number of rows or tokens, or size of its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from gspo_core.laws.kit.batch import Batch, Floats
from gspo_core.laws.kit.compare import rounding
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError, Subject
from gspo_core.objectives.ratios import Product, ProductToken

from .answers import Seen, agreeing
from .formulas.credit import advantages
from .formulas.reductions import reductions
from .formulas.thresholds import edge, limits_of_advantages
from .suspect import Suspect
from .weights import row_weights

ROWS = (4, 5, 6, 7, 8, 9, 12, 17, 33, 65, 131)
TOKENS = (5, 9, 17, 41, 131, 257, 513, 2049, 4099, 8209, 16501, 33001)
"""Sizes that are tried from small to large."""
LITTLE = -1e-5
"""Log ratio of a single token whose effect is measured."""
SHOWN = 3
"""Different weights of responses that are listed."""


def limits(subject: Subject, setting: Setting, seen: list[Seen]) -> Suspect | None:
    """The first limit; None if none of those that are known here is found, or the formula is not known."""
    try:
        return next(_found(subject, setting), None) if seen else None
    except (LossError, OverflowError):
        return None


def _found(subject: Subject, setting: Setting) -> Iterator[Suspect]:
    yield from limits_of_advantages(subject, setting)
    yield from _small_log_ratios(subject)
    yield from _low_log_probs(subject, setting)
    tokens = _first_wrong(TOKENS, 3, lambda n: _is_right(subject, setting, _tokens(setting, n)))
    if tokens:
        yield _of_tokens(subject, setting, tokens)
    rows = _first_wrong(ROWS, 3, lambda n: _is_right(subject, setting, _rows(setting, n)))
    if rows:
        yield _of_rows(subject, setting, rows)


def _first_wrong(sizes: tuple[int, ...], right: int, is_right: Callable[[int], bool]) -> int:
    """A size at which the loss is wrong, while it is right for one less; 0 if it is right for all, or wrong for few."""
    if not is_right(right):
        return 0
    wrong = next((size for size in sizes if not is_right(size)), 0)
    right = max([right, *(size for size in sizes if size < wrong)])
    while wrong - right > 1:
        middle = (wrong + right) // 2
        right, wrong = (middle, wrong) if is_right(middle) else (right, middle)
    return wrong


def _is_right(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Whether the loss of a batch is that of the formula."""
    found, wanted = subject.value(batch), setting.expected(batch)
    # A sum of n numbers, one after another, may be off by n units of rounding; the log ratios here are below 1.
    return abs(found.value - wanted.value) <= 10 * (10 + batch.mask.size) * found.eps * wanted.scale


def _rows(setting: Setting, n: int) -> Batch:
    """Responses of one and two tokens inside all bounds, with unequal advantages; the last one moved farthest."""
    k, step = np.arange(n), 0.3 * min(setting.low, setting.high)
    d = step * np.stack([(1 + k) / n, -0.3 * np.cos(k)], axis=1) * np.where(k % 2, -1, 1)[:, None]
    two = (k * 7 % 3 != 0) | (k == n - 1)
    advantage = (0.5 + k * 5 % 7 / 4) * np.where(k % 2, 1, -1)
    return Batch.of(d.tolist(), advantage.tolist(), [[1, int(x)] for x in two])


def _of_rows(subject: Subject, setting: Setting, n: int) -> Suspect:
    """What happens to n responses, if fewer have the right loss."""
    right = Suspect("", "")
    batches = [_rows(setting, n), _rows(setting, n).rows(np.arange(n)[::-1])]
    seen = [Seen(batch, subject(batch), right.evaluate(setting, batch)) for batch in batches]
    fix = "take the mean of the formula over all responses, whatever their number"
    suspect = agreeing([*advantages(), *reductions(setting.like)], setting, seen)
    if suspect is not None:
        return Suspect(f"from {n} responses on, {suspect.sentence}", suspect.fix)
    weights = row_weights(subject, setting, seen[0])
    words = f"up to {n - 1} responses have the right loss together, and {n} have not"
    return Suspect(words if weights is None else f"{words}: {_listed(weights)}", fix)


def _listed(weights: Floats) -> str:
    """How much responses weigh, in words."""
    counts = Counter(f"{abs(w):.4g}" if abs(w) < 1e-9 else f"{w:.4g}" for w in weights)
    if len(counts) > SHOWN:
        return f"their weights are {weights.min():.4g} to {weights.max():.4g} times what they should be"
    named = [f"{k} {'weighs' if k == 1 else 'weigh'} {w} times" for w, k in counts.most_common()]
    return f"{', '.join(named)} what they should"


def _tokens(setting: Setting, n: int) -> Batch:
    """One good response of n unequal tokens, on the side without a clip."""
    summed = isinstance(setting.like.ratio, (Product, ProductToken))
    d = -0.2 * min(setting.low, setting.high) * (1.0 + 0.5 * np.cos(np.arange(n))) / (n if summed else 1)
    return Batch.of([d.tolist()], [1.0])


def _of_tokens(subject: Subject, setting: Setting, n: int) -> Suspect:
    """What happens to a response of n tokens, if shorter ones have the right loss."""
    words, fix = f"a response of {n} tokens", "let a response of any length count as a whole, its length as an integer"
    still = Batch.of([[0.0] * n], [1.0])
    if subject.value(still).value == 0.0:
        return Suspect(f"{words} or more has loss 0", fix)

    def effect(slot: int) -> float:
        moved = still.with_d(LITTLE * (np.arange(n) == slot)[None, :])
        found = subject.value(moved).value - subject.value(still).value
        return found / (setting.expected(moved).value - setting.expected(still).value)

    first, last = effect(0), effect(n - 1)
    if last == 0.0 or first == 0.0:
        which = "last" if last == 0.0 else "first"
        return Suspect(f"of {words} the {which} one has no effect on the loss", fix)
    if abs(first - last) <= 1e-3 * abs(first):
        return Suspect(f"the length of {words} is counted as {n / first:.5g}", fix)
    return Suspect(
        f"in {words} the first one has {first:.4g} times the effect that it should have, the last one {last:.4g}", fix
    )


def _small_log_ratios(subject: Subject) -> Iterator[Suspect]:
    """Log ratios that count as 0 where they are small."""
    still = subject.value(Batch.of([[0.0]], [-1.0]))
    least = 1e-7 if still.eps < 1e-10 else 1e-4

    def moves(x: float) -> bool:
        return subject.value(Batch.of([[x]], [-1.0])).value != still.value

    if not moves(least) and not moves(1.1 * least) and moves(0.1):
        words = f"log ratios smaller than {edge(least, 0.1, moves):g} in size count as 0"
        yield Suspect(words, "use log π − log π_old as it is")


def _low_log_probs(subject: Subject, setting: Setting) -> Iterator[Suspect]:
    """Log-probs that are cut, or tokens that are dropped, where they are low."""
    if getattr(setting.like.gate, "sees_log_probs", False):
        return

    def off(x: float) -> bool:
        """Whether a token with log π_old = −x has another loss than the formula."""
        batch = Batch(np.array([[0.1 - x]]), np.array([[-x]]), np.array([-1.0]), np.array([[True]]))
        found, wanted = subject.value(batch), setting.expected(batch)
        return abs(found.value - wanted.value) > 100 * rounding(found, batch) * wanted.scale

    if not off(1.0) and off(64.0):
        words = f"tokens with log π below −{edge(1.0, 64.0, off):.4g} have another loss"
        words += ": it does not depend on log π − log π_old alone"
        yield Suspect(words, "use log-probs of any size, in their difference only")
