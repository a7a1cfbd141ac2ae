"""Turn-level GSPO in scalar Python, turn by turn and token by token; no code shared with the core."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from support.oracles.loss import Rows, clipped_gain, gate_open


class TurnVerdict(NamedTuple):
    """What a loss should be."""

    value: float
    scale: float
    """Σ |terms|, for error budgets."""
    weight: list[list[float]]
    """∂value/∂logp, per slot."""
    log_ratio: list[list[float]]
    """Per turn, [N, K]."""
    clipped: list[list[bool]]
    """Per turn; only where all tokens of a turn share one advantage."""


Share = Callable[[int, list[int]], float]
"""(a turn's tokens, tokens of all non-empty turns of its sequence) ↦ weight of the turn, before the denominator."""

SHARES: dict[str, Share] = {
    "SequenceMean": lambda mine, turns: mine / sum(turns),
    "TurnMean": lambda _, turns: 1.0 / len(turns),
    "FixedLength": lambda mine, _: mine,
}


def slots_of_turns(mask: Sequence[bool], ids: Sequence[int], num_turns: int) -> list[list[int]]:
    """Positions of each turn's tokens, empty turns included."""
    return [[t for t, (ok, k) in enumerate(zip(mask, ids, strict=True)) if ok and k == turn] for turn in range(num_turns)]


def segment(
    logp: Rows,
    old: Rows,
    advantage: Rows,
    mask: Sequence[Sequence[bool]],
    ids: Sequence[Sequence[int]],
    num_turns: int,
    low: float,
    high: float,
    share: Share,
    length: int = 1,
) -> TurnVerdict:
    """One clipped term per token, each with its turn's ratio and its own advantage (per slot), shared equally in a turn.

    With equal advantages inside a turn the terms of a turn are equal: the objective with one ratio per turn.
    """
    rows = [slots_of_turns(m, k, num_turns) for m, k in zip(mask, ids, strict=True)]
    n = max(1, sum(any(turns) for turns in rows)) * length
    terms: list[float] = []
    weight = [[0.0] * len(row) for row in mask]
    ratios = [[0.0] * num_turns for _ in mask]
    clipped = [[False] * num_turns for _ in mask]
    for i, turns in enumerate(rows):
        lengths = [len(turn) for turn in turns if turn]
        for k, turn in enumerate(turns):
            if not turn:
                continue
            log_s = math.fsum(logp[i][t] - old[i][t] for t in turn) / len(turn)
            ratios[i][k] = log_s
            of_turn = share(len(turn), lengths) / n
            for t in turn:
                is_open = gate_open(log_s, advantage[i][t], low, high)
                terms.append(-clipped_gain(log_s, advantage[i][t], low, high) * of_turn / len(turn))
                weight[i][t] = -advantage[i][t] * math.exp(log_s) * of_turn / len(turn) if is_open else 0.0
                clipped[i][k] = not is_open
    return TurnVerdict(math.fsum(terms), math.fsum(map(abs, terms)), weight, ratios, clipped)
