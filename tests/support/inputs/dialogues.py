"""Random dialogues for the turn-level ratio, and one way to run the core on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from support.cases import Batch, batches
from support.libraries import Library
from support.oracles import dialogue as oracle_dialogue

from gspo_core import Clip, Loss, Objective, Padded, SequenceMean, Turns, policy_loss
from gspo_core.layouts import Layout
from gspo_core.objectives import FixedLength, Turn, TurnMean, TurnToken

REDUCTIONS: dict[str, Any] = {"SequenceMean": SequenceMean(), "TurnMean": TurnMean(), "FixedLength": FixedLength(7)}


@dataclass(frozen=True)
class Dialogues:
    """A padded batch whose tokens belong to turns; some tokens to none, some turns have no token."""

    batch: Batch
    ids: np.ndarray
    """[N, T]."""
    num_turns: int
    turn_advantage: np.ndarray
    """[N, K], NaN where the turn is empty."""

    @property
    def in_turn(self) -> np.ndarray:
        """[N, T] slots that hold a token of some turn."""
        return self.batch.mask & (self.ids >= 0) & (self.ids < self.num_turns)

    @property
    def spread_advantage(self) -> np.ndarray:
        """[N, T] each token's turn's advantage."""
        safe = np.where(self.in_turn, self.ids, 0)
        return np.where(self.in_turn, np.take_along_axis(self.turn_advantage, safe, axis=1), 0.0)

    def layout(self, library: Library) -> Turns:
        """Padded, with turns."""
        return Turns(Padded(library.array(self.batch.mask)), library.array(self.ids), self.num_turns)

    def objective(self, reduction: str, token_form: bool = False) -> Objective:
        """Turn-level GSPO with this batch's clip range."""
        ratio = TurnToken() if token_form else Turn()
        return Objective(ratio, Clip(self.batch.low, self.batch.high), REDUCTIONS[reduction])

    def judged(self, reduction: str, advantage: np.ndarray) -> oracle_dialogue.TurnVerdict:
        """The oracle's verdict; advantages per slot."""
        b = self.batch
        arrays = (b.logp.tolist(), b.old_logp.tolist(), advantage.tolist(), b.mask.tolist(), self.ids.tolist())
        length = 7 if reduction == "FixedLength" else 1
        return oracle_dialogue.segment(*arrays, self.num_turns, b.low, b.high, oracle_dialogue.SHARES[reduction], length)

    def distance_to_kinks(self) -> float:
        """Smallest |log s_ik − log bound|."""
        units = np.asarray(self.judged("TurnMean", self.spread_advantage).log_ratio)
        gaps = np.abs(units.reshape(-1, 1) - np.log1p([self.batch.high, -self.batch.low])[None, :])
        return float(np.min(gaps, initial=np.inf))


@st.composite
def dialogues(draw: st.DrawFn, max_turns: int = 4, strays: bool = True) -> Dialogues:
    """`batches` with turns in any order, not contiguous, and rubbish ids in masked slots."""
    batch, num_turns = draw(batches(edges=False)), draw(st.integers(1, max_turns))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = batch.mask.shape
    ids = np.where(batch.mask, rng.integers(0, num_turns, shape), rng.integers(-99, 99, shape))
    if strays and draw(st.booleans()):
        ids = np.where(rng.random(shape) < 0.2, rng.choice([-1, num_turns, 2**31], shape), ids)
    there = np.stack([((ids == k) & batch.mask).any(axis=1) for k in range(num_turns)], axis=1)
    advantage = rng.normal(size=there.shape) * 10.0 ** rng.uniform(-2, 1) * (rng.random(there.shape) > 0.2)
    return Dialogues(batch, ids, num_turns, np.where(there, advantage, np.nan))


def loss_of(library: Library, objective: Objective, batch: Batch, advantage: Any, layout: Layout) -> Loss:
    """The core's loss as NumPy arrays; the advantage is a NumPy array."""
    arrays = (library.array(x) for x in (batch.logp, batch.old_logp, advantage))
    loss = policy_loss(objective, *arrays, layout)
    return Loss(*(library.numpy(x) for x in loss[:-1]), loss.on_policy)
