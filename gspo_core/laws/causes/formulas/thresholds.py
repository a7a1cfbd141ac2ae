"""Suspects with a number that is read off the loss of single tokens: limits of advantages and of log ratios, a KL in A."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch, Bools, Floats
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError, Subject
from gspo_core.objectives.ratios import Sequence, SequenceToken, Token

SAME = 1e-6
"""Relative difference below which two losses are equal."""
LARGE, SMALL = 1e6, 1e-7
"""Sizes of advantages between which a loss should be in proportion."""
FAR = 4.0
"""Log ratio up to which a limit of tokens is looked for."""
HALVINGS = 50


def edge(low: float, high: float, beyond: Callable[[float], bool]) -> float:
    """The number between `low` and `high`, by ratio, at which `beyond` becomes true."""
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return float(f"{high:.6g}")


def thresholds(subject: Subject, setting: Setting) -> list[Suspect]:
    """All suspects; none for a loss that raises on a token."""
    try:
        return [*limits_of_advantages(subject, setting), *_far_tokens(subject), *_kl_in_the_advantage(subject, setting)]
    except (LossError, OverflowError):
        return []


def limits_of_advantages(subject: Subject, setting: Setting) -> Iterator[Suspect]:
    """Advantages that are cut where they are large, or count as 0 where they are small."""

    def share(a: float) -> float:
        batch = Batch.of([[0.0]], [a])
        wanted = setting.expected(batch).value
        return subject.value(batch).value / wanted if wanted else 1.0

    cut = {sign: abs(share(sign * LARGE)) * LARGE for sign in (1.0, -1.0)}
    flat = {sign: abs(share(0.1 * sign * LARGE) * 0.1 * LARGE - at) <= SAME * at for sign, at in cut.items() if at}
    low, high = (float(f"{cut[sign]:.6g}") if flat.get(sign) else math.inf for sign in (-1.0, 1.0))
    words = {
        (True, True): f"advantages are cut to [−{low:g}, {high:g}]",
        (True, False): f"advantages below −{low:g} are cut",
        (False, True): f"advantages above {high:g} are cut",
    }
    said, bound = words.get((low < math.inf, high < math.inf)), min(low, high)
    half = share(0.5 * bound if high == bound else -0.5 * bound) if said else 1.0
    if said and abs(half - 1.0) > SAME:
        numbers = f"one of {0.5 * bound:g} counts {half:.4g} times, and none counts for more than {bound:g}"
        yield Suspect(f"advantages are squashed, as by tanh: {numbers}", "use A, whatever its size")
    elif said:
        yield Suspect(said, "use A, whatever its size", batch=_changed(lambda a: np.clip(a, -low, high)))
    if share(SMALL) == 0.0 == share(-SMALL) and share(LARGE):
        least = edge(SMALL, LARGE, lambda a: share(a) != 0.0)

        def dropped(a: Floats) -> Floats:
            return np.where(np.abs(a) < least * (1 - SAME), 0.0, a)

        words_of_small = f"advantages smaller than {least:g} in size count as 0"
        yield Suspect(words_of_small, "use A, whatever its size", batch=_changed(dropped))


def _changed(change: Callable[[Floats], Floats]) -> Callable[[Batch], Batch]:
    return lambda batch: replace(batch, advantage=change(batch.advantage))


def _far_tokens(subject: Subject) -> Iterator[Suspect]:
    """Tokens that moved far, masked or with their log ratio set to 0."""

    def silent(x: float, sign: float) -> bool:
        """Whether a token on the side that is never clipped has the loss of an unmoved or a masked one."""
        found = abs(subject.value(Batch.of([[sign * x]], [-sign])).value)
        return any(abs(found - other) <= SAME for other in (0.0, still))

    still = abs(subject.value(Batch.of([[0.0]], [-1.0])).value)
    far = {sign: silent(FAR, sign) and not silent(0.01, sign) for sign in (1.0, -1.0)}
    up, down = (edge(0.01, FAR, lambda x, s=sign: silent(x, s)) if far[sign] else math.inf for sign in (1.0, -1.0))  # type: ignore[misc]
    if up == down == math.inf:
        return
    above, below = (f"{math.exp(x):.6g}" for x in (up, -down))
    where = [f"above {above}"] if up < math.inf else []
    words = f"tokens whose ratio is {' or '.join(where + ([f'below {below}'] if down < math.inf else []))} are masked"

    def near(batch: Batch) -> Bools:
        return np.asarray((batch.d <= up * (1 - SAME)) & (batch.d >= -down * (1 - SAME)))

    def masked(batch: Batch) -> Batch:
        return replace(batch, mask=batch.mask & near(batch))

    def counted(batch: Batch) -> Floats:
        left, all_rows = (int(x.any(axis=1).sum()) for x in (masked(batch).mask, batch.mask))
        return np.full(len(batch.mask), left / max(1, all_rows))

    def unmoved(batch: Batch) -> Batch:
        return batch.with_d(np.where(near(batch), batch.d, 0.0))

    fix = "let all tokens of a response count; the clip of its ratio bounds the update"
    yield Suspect(words, fix, batch=masked)
    yield Suspect(words, fix, batch=masked, factor=counted)
    yield Suspect(f"{words}, and still counted in the length", fix, batch=unmoved, chain=lambda batch: near(batch) * 1.0)


def _kl_in_the_advantage(subject: Subject, setting: Setting) -> Iterator[Suspect]:
    """Advantages lowered by β log(π/π_old), as found where A = 0; a gradient flows through it or not."""
    d = 0.4 * min(setting.low, setting.high)
    beta = subject.value(Batch.of([[-d]], [0.0])).value / (-d * math.exp(-d))
    if not math.isfinite(beta) or abs(beta) < SAME or type(setting.like.ratio) not in (Sequence, SequenceToken, Token):
        return
    beta = float(f"{beta:.6g}")
    per_token = type(setting.like.ratio) is Token

    def lowered(batch: Batch) -> Batch:
        if per_token:
            return replace(batch, advantage=batch.token_advantage - beta * batch.d)
        mean = batch.d.sum(axis=1) / np.maximum(1, batch.lengths)
        return replace(batch, advantage=batch.advantage - beta * (mean[:, None] if batch.per_token else mean))

    less = f"lowered by {beta:g}" if beta > 0 else f"raised by {-beta:g}"
    words = f"the advantage is {less} · log(π/π_old) inside the loss"
    fix = "take the KL out of the advantage, or put it into the reward before the advantages are computed, without a gradient"
    yield Suspect(words, fix, batch=lowered)
    yield Suspect(f"{words}, and a gradient flows through it", fix, batch=lowered, by_differences=True)
