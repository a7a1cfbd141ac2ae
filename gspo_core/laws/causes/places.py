"""Where a loss differs from its formula, if no known difference explains it: in single tokens, responses, or batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gspo_core.laws.kit.batch import Batch


class Place(NamedTuple):
    """The smallest kind of batch on which a loss is another one."""

    words: str
    chapters: tuple[str, ...]
    """Laws that say more about it."""
    limited: bool = False
    """Whether only good, or only bad, responses of several tokens have another loss."""


def place(batches: Iterable[tuple[Batch, bool]]) -> Place | None:
    """The smallest kind of batch on which the loss is another one, in words; each batch with whether the loss agrees."""
    seen = [(batch, agrees) for batch, agrees in batches if batch.mask.any()]
    tokens = [(batch, agrees) for batch, agrees in seen if batch.mask.size == 1]
    responses = [(batch, agrees) for batch, agrees in seen if len(batch.mask) == 1 and batch.mask.size > 1]
    if any(not agrees for _, agrees in tokens):
        return Place(f"the loss of single tokens is another one{_where(tokens)}", ("credit", "clip", "clip_bounds"))
    if any(not agrees for _, agrees in responses):
        wrong = {float(batch.advantage.flat[0]) > 0 for batch, agrees in responses if not agrees}
        if len(wrong) == 1 and len({float(batch.advantage.flat[0]) > 0 for batch, _ in responses}) == 2:
            bad, good = ("good", "bad") if True in wrong else ("bad", "good")
            words = f"single tokens and {good} responses have the right loss, and {bad} responses of several tokens have not"
            return Place(words, ("masks", "gspo_token", "ratio", "ratio_algebra", "clip", "credit"), True)
        words = (
            "single tokens have the right loss, and a response of several has not: the ratio or a mean over tokens is another"
        )
        return Place(words, ("masks", "gspo_token", "ratio", "ratio_algebra", "clip", "credit"))
    if any(not agrees for _, agrees in seen):
        words = "single tokens have the right loss, and several ragged responses have not"
        return Place(words, ("masks", "micro_batches", "reduction"))
    return None


def _where(tokens: list[tuple[Batch, bool]]) -> str:
    """The sign of A, and the side of the ratio 1, to which the difference is limited."""
    wrong = [(float(batch.advantage.flat[0]), float(batch.d[0, 0])) for batch, agrees in tokens if not agrees]
    good, up = {a > 0 for a, _ in wrong}, {d > 0 for _, d in wrong if d != 0}
    sign = "" if len(good) > 1 else f" for {'good' if True in good else 'bad'} responses"
    on_policy = any(d == 0 for _, d in wrong)
    side = "" if len(up) != 1 or on_policy else f", at ratios {'above' if True in up else 'below'} 1"
    return f"{sign}{side}"
