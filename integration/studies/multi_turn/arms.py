"""The arms of the multi-turn study: an objective, and how the rewards of the turns become its advantages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gspo_core import GSPO, GSPO_TOKEN, Clip, Objective, Pilot, Sequence, group_advantages
from gspo_core.advantages import reward_to_go, turn_advantages
from gspo_core.objectives import Turn, TurnMean
from gspo_core.objectives.gating import token_log_ratio
from integration.studies.multi_turn.rollout import Dialogues

Credit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(rewards [N, K], played [N, K], group ids [N]) ↦ the advantage of every turn, [N, K]."""


def of_the_response(rewards: np.ndarray, _: np.ndarray, group_ids: np.ndarray) -> np.ndarray:
    """A_ik = A_i: the dialogue's total against the totals of its group, the same for each of its turns."""
    total = group_advantages(rewards.sum(1), group_ids)
    return np.repeat(total[:, None], rewards.shape[1], axis=1)


def of_the_turn(rewards: np.ndarray, played: np.ndarray, group_ids: np.ndarray) -> np.ndarray:
    """A_ik: the reward of turn k against that of the same turn in the dialogues of its group that reached it."""
    turns = range(rewards.shape[1])
    return np.stack([group_advantages(rewards[:, k], group_ids, valid=played[:, k]) for k in turns], axis=1)


def of_the_rest(rewards: np.ndarray, _: np.ndarray, group_ids: np.ndarray) -> np.ndarray:
    """A_ik: the rewards from turn k on, against those of the whole group; turns that were not played count as 0."""
    rest = reward_to_go(rewards)
    return np.stack([group_advantages(rest[:, k], group_ids) for k in range(rewards.shape[1])], axis=1)


@dataclass(frozen=True)
class Arm:
    """One way to train on the same dialogues."""

    objective: Objective
    """With the clip range of the pilot."""
    credit: Credit

    def values(self, dialogues: Dialogues, group_ids: np.ndarray) -> Tensor:
        """[N, K] the advantage of every turn."""
        worth = self.credit(dialogues.rewards, dialogues.played, group_ids)
        return torch.as_tensor(worth, dtype=torch.float32, device=dialogues.tokens.device)

    def advantage(self, values: Tensor, dialogues: Dialogues) -> Tensor:
        """The advantages of the turns [N, K] in the shape that the objective takes: [N], [N, K] or [N, T]."""
        if isinstance(self.objective.ratio, Sequence):
            return values[:, 0]
        if isinstance(self.objective.ratio, Turn):
            return values
        spread: Tensor = turn_advantages(values, dialogues.turn_ids, dialogues.layout)
        return spread

    def clipped_at(self, clip: Clip) -> Arm:
        """The arm with another clip range."""
        return replace(self, objective=self.objective.with_clip(clip.low, clip.high))

    def pilot(self, logp: Tensor, old_logp: Tensor, values: Tensor, dialogues: Dialogues) -> Pilot:
        """log s, length and advantage of the units with an advantage: responses, or turns with the ratio that is clipped."""
        layout = dialogues.layout
        d = token_log_ratio(logp, old_logp, layout)
        lengths = layout.turns.each.lengths().reshape(values.shape)
        if isinstance(self.objective.ratio, Turn):
            log_s = Turn().log_ratio(d, layout)
        else:
            log_s, lengths = (x[:, None].expand(values.shape) for x in (Sequence().log_ratio(d, layout), layout.lengths()))
        there = (values != 0) & (layout.turns.each.lengths().reshape(values.shape) > 0)
        if isinstance(self.objective.ratio, Sequence):
            there = there & (torch.arange(values.shape[1], device=values.device) == 0)
        return Pilot(log_s[there], lengths[there], values[there])


WIDE = (0.03, 0.04)
"""The clip range of the pilot, the same for all arms."""
ARMS = {
    "gspo": Arm(GSPO.with_clip(*WIDE), of_the_response),
    "token": Arm(GSPO_TOKEN.with_clip(*WIDE), of_the_turn),
    "token-to-go": Arm(GSPO_TOKEN.with_clip(*WIDE), of_the_rest),
    "turn": Arm(Objective(Turn(), Clip(*WIDE), TurnMean()), of_the_turn),
    "token-uniform": Arm(GSPO_TOKEN.with_clip(*WIDE), of_the_response),
}
"""GSPO; GSPO-token with the turn's own reward, with all rewards from the turn on; a ratio per turn; and GSPO-token as GSPO."""
