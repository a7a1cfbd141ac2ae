"""Dialogues are what was said: whose token stands where, which turns were played, and what the policy gave each token."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from integration.studies.multi_turn.model import WarmUp, build_policy
from integration.studies.multi_turn.register_machine import END, PAD, SYMBOLS, Episode, draw_episodes, encode
from integration.studies.multi_turn.rollout import Dialogues, dialogue_logp, draw, written

EPISODES = [
    Episode(("1234", "4321", "3214"), ("r", "l")),
    Episode(("5678", "6785", "5876"), ("l", "r")),
    Episode(("9012", "2109", "1092"), ("r", "l")),
]


class Scripted:
    """A model that says what stands in its script: [N] replies for each turn, whatever it is shown."""

    def __init__(self, script: list[list[str]]) -> None:
        self.turns = [[[*encode(said.rstrip("|")), *[END] * said.endswith("|")] for said in turn] for turn in script]
        self.turn, self.column, self.calls = -1, 0, 0

    def parameters(self) -> Any:
        """For the device."""
        yield torch.zeros(1)

    def __call__(self, *, input_ids: Tensor, **_: Any) -> Any:
        if input_ids.shape[1] >= 5:  # the environment has spoken
            self.turn, self.column = self.turn + 1, 0
        logits = torch.zeros(len(input_ids), 1, len(SYMBOLS))
        for row, reply in enumerate(self.turns[self.turn]):
            logits[row, 0, (reply + [PAD] * 9)[self.column]] = 1.0
        self.column += 1
        return SimpleNamespace(logits=logits, past_key_values=None)


def test_masks_turn_ids_and_rewards_of_dialogues_by_hand() -> None:
    """Row 0 is right, then wrong; row 1 stops short, then is right; row 2 cannot be read, and its dialogue ends."""
    model = Scripted([["4321|", "67|", "210909"], ["3215|", "5876|", "1|"]])
    dialogues = draw(model, EPISODES, 1, None)
    text = ["".join({"<pad>": "_", "<end>": "|"}.get(SYMBOLS[t], SYMBOLS[t]) for t in row) for row in dialogues.tokens.tolist()]
    assert text == ["1234r4321|_4321l3215|", "5678l67|___6785r5876|", "9012r210909__________"]
    whose = ["".join("_" if k < 0 else str(k) for k in row) for row in dialogues.turn_ids.tolist()]
    assert whose == ["_____00000______11111", "_____000________11111", "_____000000__________"]
    assert torch.equal(dialogues.mask, dialogues.turn_ids >= 0)
    assert torch.equal(dialogues.attention, torch.tensor([[c != "_" for c in row] for row in text]))
    assert dialogues.rewards.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert dialogues.played.tolist() == [[True, True], [True, True], [True, False]]
    assert dialogues.layout.lengths().tolist() == [10, 8, 6]
    assert dialogues.layout.turns.each.lengths().tolist() == [5, 5, 3, 5, 6, 0]
    some = dialogues.rows(torch.tensor([2, 0]))
    assert some.tokens.tolist() == [dialogues.tokens[2].tolist(), dialogues.tokens[0].tolist()]
    assert some.rewards.tolist() == [[0, 0], [1, 0]]


def test_a_dialogue_that_nobody_can_read_has_no_further_turn() -> None:
    dialogues = draw(Scripted([["111111", "222222", "333333"]]), EPISODES, 1, None)
    assert dialogues.tokens.shape == (3, 11)
    assert dialogues.played.tolist() == [[True, False]] * 3


@pytest.fixture(scope="module")
def policy() -> Any:
    """Ten supervised steps old, so that it ends some of its replies; float64."""
    model = build_policy(WarmUp(0, layers=2, hidden=32))
    optimizer, source = torch.optim.Adam(model.parameters(), 1e-2), random.Random(0)
    for _ in range(20):
        dialogues = written(draw_episodes(16, 3, source, held_out=False))
        (-dialogue_logp(model, dialogues).sum() / dialogues.mask.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.double()


@pytest.fixture(scope="module")
def sampled(policy: Any) -> Dialogues:
    """24 dialogues with holes of every kind."""
    episodes = draw_episodes(8, 3, random.Random(1), held_out=False)
    return draw(policy, episodes, 3, torch.Generator().manual_seed(0))


def test_what_is_sampled_has_holes_and_early_ends(sampled: Dialogues) -> None:
    """The guard of the tests below."""
    assert 0 < sampled.played[:, -1].mean() < 1
    assert len(set(sampled.layout.turns.each.lengths().tolist())) >= 3


def test_log_probs_are_those_of_the_dialogue_without_its_holes(policy: Any, sampled: Dialogues) -> None:
    """Each dialogue by itself, closed up, through the model's own logits."""
    ours = dialogue_logp(policy, sampled)
    assert bool((ours[~sampled.mask] == 0).all())
    for row in range(len(ours)):
        there = sampled.attention[row]
        ids, spoken = sampled.tokens[row][there], sampled.mask[row][there]
        logp = torch.log_softmax(policy(input_ids=ids[None]).logits[0, :-1], -1).gather(-1, ids[1:, None])[:, 0]
        torch.testing.assert_close(ours[row][sampled.mask[row]], logp[spoken[1:]], rtol=1e-9, atol=1e-9)


def test_padding_and_the_environment_have_no_log_prob_and_padding_is_not_read(policy: Any, sampled: Dialogues) -> None:
    rubbish = torch.where(sampled.attention, sampled.tokens, 7)
    assert not torch.equal(rubbish, sampled.tokens)
    other = Dialogues(rubbish, sampled.attention, sampled.turn_ids, sampled.rewards, sampled.played)
    torch.testing.assert_close(dialogue_logp(policy, other), dialogue_logp(policy, sampled), rtol=1e-12, atol=1e-12)


def test_greedy_dialogues_are_the_argmax_of_what_is_trained(policy: Any) -> None:
    """Sampling with a cache and scoring at once see the same dialogue."""
    dialogues = draw(policy, draw_episodes(6, 3, random.Random(2), held_out=False), 1, None)
    ids, attention = dialogues.tokens, dialogues.attention
    logits = policy(
        input_ids=ids, attention_mask=attention.long(), position_ids=(attention.long().cumsum(-1) - 1).clamp(min=0)
    ).logits[:, :-1]
    assert torch.equal(logits.argmax(-1)[dialogues.mask[:, 1:]], ids[dialogues.mask])


@pytest.mark.slow
def test_sampled_tokens_are_drawn_from_the_policy(policy: Any) -> None:
    """The first token of 4000 dialogues, against its probabilities: within five standard deviations of a share."""
    episode = draw_episodes(1, 1, random.Random(5), held_out=False)
    first = draw(policy, episode, 4000, torch.Generator().manual_seed(1)).tokens[:, 5]
    logits = policy(input_ids=torch.tensor([episode[0].shown(0)])).logits[0, -1]
    p = torch.softmax(logits, -1).detach()
    share = torch.bincount(first, minlength=len(SYMBOLS)) / 4000
    assert float(p.max()) < 0.9
    assert bool(((share - p).abs() <= 5 * (p * (1 - p) / 4000).sqrt() + 1e-3).all())


def test_supervised_dialogues_are_all_right() -> None:
    dialogues = written(EPISODES)
    for episode, row, ids in zip(EPISODES, dialogues.tokens.tolist(), dialogues.turn_ids.tolist(), strict=True):
        for turn in (0, 1):
            assert episode.judge(turn, [t for t, k in zip(row, ids, strict=True) if k == turn]).right
    assert dialogues.rewards.all()
