"""The register machine asks what it says, judges every turn by itself, and keeps held-out digits out of training."""

from __future__ import annotations

import random

import pytest

from integration.studies.multi_turn.register_machine import (
    END,
    LONGEST_REPLY,
    OPERATIONS,
    SYMBOLS,
    Episode,
    draw_episodes,
    encode,
    is_held_out,
    operate,
)

EPISODE = Episode(("1234", "4321", "3214"), ("r", "l"))


@pytest.mark.parametrize(
    ("operation", "result"),
    [("r", "4321"), ("l", "2341"), ("p", "4123"), ("h", "3412"), ("w", "2143"), ("m", "1324"), ("s", "1234"), ("d", "4321")],
)
def test_every_operation_by_hand(operation: str, result: str) -> None:
    assert operate(operation, "1234") == result


def test_sorting_looks_at_the_digits_and_not_at_their_places() -> None:
    assert (operate("s", "3141"), operate("d", "3141")) == ("1134", "4311")
    assert set(OPERATIONS) == set("rlphwmsd")


def test_the_environment_shows_the_right_result_and_the_next_operation() -> None:
    assert [SYMBOLS[token] for token in EPISODE.shown(0)] == list("1234r")
    assert [SYMBOLS[token] for token in EPISODE.shown(1)] == list("4321l")
    assert [SYMBOLS[token] for token in EPISODE.answer(1)] == [*"3214", "<end>"]
    assert len(EPISODE.answer(1)) == LONGEST_REPLY - 1


@pytest.mark.parametrize(
    ("reply", "right", "readable"),
    [
        ([*encode("4321"), END], True, True),
        ([*encode("4321"), END, 0], True, True),
        ([*encode("4312"), END], False, True),
        ([*encode("432"), END], False, True),
        ([*encode("43211"), END], False, True),
        ([END], False, True),
        (encode("432111"), False, False),
        (encode("4321rr"), False, False),
        ([0] * 6, False, False),
    ],
)
def test_the_verifier_wants_all_digits_in_order_and_the_end(reply: list[int], right: bool, readable: bool) -> None:
    verdict = EPISODE.judge(0, reply)
    assert (verdict.right, verdict.readable) == (right, readable)


def test_held_out_dialogues_and_training_dialogues_share_no_register() -> None:
    ours, theirs = (draw_episodes(300, 4, random.Random(7), held_out=held_out) for held_out in (False, True))
    shown = [{register for episode in episodes for register in episode.registers} for episodes in (ours, theirs)]
    assert not shown[0] & shown[1]
    assert not any(is_held_out(register) for register in shown[0])
    assert all(is_held_out(register) for register in shown[1])
    share = sum(is_held_out(f"{number:04}") for number in range(10_000)) / 10_000
    assert 0.1 < share < 0.3


def test_episodes_are_chains_of_their_operations_and_come_again_with_their_seed() -> None:
    episodes = draw_episodes(50, 8, random.Random(3), held_out=False)
    for episode in episodes:
        for turn, operation in enumerate(episode.operations):
            assert episode.registers[turn + 1] == operate(operation, episode.registers[turn])
    assert episodes == draw_episodes(50, 8, random.Random(3), held_out=False)
    assert {operation for episode in episodes for operation in episode.operations} == set(OPERATIONS)
