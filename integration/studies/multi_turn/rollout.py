"""Dialogues with the register machine: sampled turns of the policy, and between them, masked, tokens of the environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gspo_torch import token_logp
from torch import Tensor

from gspo_core import Padded, Turns
from integration.options.errors import TrainingFailure
from integration.studies.multi_turn.register_machine import END, LONGEST_REPLY, PAD, Episode


@dataclass(frozen=True)
class Dialogues:
    """N dialogues of at most K turns: T columns with tokens of the environment and of the policy, and padding, in any order."""

    tokens: Tensor
    """[N, T] token ids."""
    attention: Tensor
    """[N, T] boolean: slots with a token of the environment or the policy."""
    turn_ids: Tensor
    """[N, T] the turn of the policy's tokens; −1 for the environment's, and where there is none."""
    rewards: np.ndarray
    """[N, K] 1 for a right turn, 0 for a wrong one and for turns that the dialogue did not reach."""
    played: np.ndarray
    """[N, K] boolean: turns that the dialogue reached."""

    @property
    def mask(self) -> Tensor:
        """[N, T] boolean: the policy's tokens."""
        return self.turn_ids >= 0

    @property
    def layout(self) -> Turns:
        """The policy's tokens, turn by turn."""
        return Turns(Padded(self.mask), self.turn_ids, self.rewards.shape[1])

    def rows(self, index: Tensor) -> Dialogues:
        """The chosen dialogues."""
        chosen = index.cpu().numpy()
        arrays = (self.tokens[index], self.attention[index], self.turn_ids[index])
        return Dialogues(*arrays, self.rewards[chosen], self.played[chosen])


@torch.no_grad()
def draw(model: Any, episodes: list[Episode], count: int, generator: torch.Generator | None) -> Dialogues:
    """`count` dialogues to each episode, [len(episodes) · count] in all, at temperature 1; greedy without a generator."""
    return _Table(model, [episode for episode in episodes for _ in range(count)], generator).play()


def written(episodes: list[Episode]) -> Dialogues:
    """The episodes with the right reply in every turn, for supervised steps on the CPU."""
    turns = range(len(episodes[0].operations))
    replies = [[episode.answer(turn) for turn in turns] for episode in episodes]
    rows = [[token for turn in turns for token in (*e.shown(turn), *r[turn])] for e, r in zip(episodes, replies, strict=True)]
    ids = [owner for turn in turns for owner in (*[-1] * len(episodes[0].shown(turn)), *[turn] * len(replies[0][turn]))]
    tokens, turn_ids = torch.tensor(rows), torch.tensor([ids] * len(rows))
    right = np.ones((len(rows), len(turns)))
    return Dialogues(tokens, torch.ones_like(tokens, dtype=torch.bool), turn_ids, right, right.astype(bool))


def dialogue_logp(model: Any, dialogues: Dialogues) -> Tensor:
    """[N, T] log π of the policy's tokens, 0 elsewhere. Only hidden states that predict them meet the LM head."""
    mask = dialogues.mask
    body, head = model.get_decoder(), model.get_output_embeddings()
    hidden = body(
        input_ids=dialogues.tokens,
        attention_mask=dialogues.attention.long(),
        position_ids=places(dialogues.attention),
        use_cache=False,
    ).last_hidden_state
    logp = token_logp(hidden[:, :-1], head.weight, dialogues.tokens[:, 1:], layout=Padded(mask[:, 1:]))
    return torch.nn.functional.pad(logp, (1, 0))  # nothing predicts a dialogue's first token, which is never the policy's


def places(attention: Tensor) -> Tensor:
    """[N, T] positions, holes not counted."""
    return (attention.long().cumsum(-1) - 1).clamp(min=0)


class _Table:
    """Dialogues in progress, in lock step: the same column holds the same turn's tokens in all of them."""

    def __init__(self, model: Any, episodes: list[Episode], generator: torch.Generator | None) -> None:
        self.model, self.episodes, self.generator = model, episodes, generator
        self.device = next(model.parameters()).device
        self.turns = len(episodes[0].operations)
        self.tokens, self.attention, self.turn_ids = (self._empty(kind) for kind in (torch.long, torch.bool, torch.long))
        self.alive = torch.ones(len(episodes), dtype=torch.bool, device=self.device)
        self.cache: Any = None
        self.read = 0  # columns in the cache

    def play(self) -> Dialogues:
        """All turns."""
        rewards = np.zeros((len(self.episodes), self.turns))
        played = np.zeros(rewards.shape, dtype=bool)
        for turn in range(self.turns):
            if not bool(self.alive.any()):
                break
            shown = torch.tensor([episode.shown(turn) for episode in self.episodes], device=self.device)
            self._append(shown, self.alive[:, None].expand(shown.shape), -1)
            begin = self.tokens.shape[1]
            self._reply(turn)
            alive, replies = self.alive.tolist(), self.tokens[:, begin:].tolist()
            verdicts = [e.judge(turn, reply) for e, reply in zip(self.episodes, replies, strict=True)]
            played[:, turn] = alive
            rewards[:, turn] = [there and verdict.right for there, verdict in zip(alive, verdicts, strict=True)]
            self.alive = self.alive & torch.tensor([verdict.readable for verdict in verdicts], device=self.device)
        return Dialogues(self.tokens, self.attention, self.turn_ids, rewards, played)

    def _reply(self, turn: int) -> None:
        speaking = self.alive
        for _ in range(LONGEST_REPLY):
            token = torch.where(speaking, self._choose(self._logits()), PAD)
            self._append(token[:, None], speaking[:, None], turn)
            speaking = speaking & (token != END)
            if not bool(speaking.any()):
                return

    def _logits(self) -> Tensor:
        """[N, V] of the next token."""
        out = self.model(
            input_ids=self.tokens[:, self.read :],
            attention_mask=self.attention.long(),
            position_ids=places(self.attention)[:, self.read :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache, self.read = out.past_key_values, self.tokens.shape[1]
        logits: Tensor = out.logits[:, -1].float()
        if not bool(torch.isfinite(logits).all()):
            raise TrainingFailure("the model's logits are no longer finite; lower the learning rate")
        return logits

    def _choose(self, logits: Tensor) -> Tensor:
        if self.generator is None:
            return logits.argmax(-1)
        return torch.multinomial(torch.softmax(logits, -1), 1, generator=self.generator)[:, 0]

    def _append(self, tokens: Tensor, there: Tensor, turn: int) -> None:
        """Columns; slots that are not `there` are padding."""
        self.tokens = torch.cat([self.tokens, tokens.where(there, PAD)], 1)
        self.attention = torch.cat([self.attention, there], 1)
        self.turn_ids = torch.cat([self.turn_ids, torch.where(there, turn, -1)], 1)

    def _empty(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros((len(self.episodes), 0), dtype=dtype, device=self.device)
