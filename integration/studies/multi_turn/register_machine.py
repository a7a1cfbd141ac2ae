"""A dialogue with a register machine: the environment shows a register and an operation, the policy writes the result.

    environment  3 1 4 1 r      policy  1 4 1 3 <end>      environment  1 4 1 3 l      policy  4 1 3 1 <end>      ...

The environment judges every turn, then shows the right register and the next operation, so the task of a turn does not depend
on the answers before it. A reply without <end> cannot be parsed and ends the dialogue. Operations only permute the digits: a
dialogue keeps its multiset of digits, and held-out multisets never occur in training.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

PAD, END = 0, 1
WIDTH = 4
"""Digits in the register."""
PERMUTATIONS = {
    "r": (3, 2, 1, 0),  # reverse
    "l": (1, 2, 3, 0),  # rotate left
    "p": (3, 0, 1, 2),  # rotate right
    "h": (2, 3, 0, 1),  # swap the halves
    "w": (1, 0, 3, 2),  # swap within the halves
    "m": (0, 2, 1, 3),  # swap the middle
}
ORDERS = {"s": False, "d": True}
"""Sort; sort in descending order."""
OPERATIONS = (*PERMUTATIONS, *ORDERS)
SYMBOLS = ("<pad>", "<end>", *"0123456789", *OPERATIONS)
"""Token ids are places in this list."""
LONGEST_REPLY = WIDTH + 2
"""Tokens that the policy may write in a turn: one more than the right answer has."""
HELD_OUT_SHARE = 5
"""One multiset of digits in so many is held out."""


@dataclass(frozen=True)
class Episode:
    """The registers and operations of one dialogue."""

    registers: tuple[str, ...]
    """K + 1 registers: shown in turn 0, …, K − 1, and the last result."""
    operations: tuple[str, ...]
    """K operations."""

    def shown(self, turn: int) -> list[int]:
        """[WIDTH + 1] tokens: the register, which is the result of the turn before, and the operation."""
        return encode(self.registers[turn] + self.operations[turn])

    def answer(self, turn: int) -> list[int]:
        """[WIDTH + 1] tokens of the right reply, its <end> included."""
        return [*encode(self.registers[turn + 1]), END]

    def judge(self, turn: int, reply: Sequence[int]) -> Verdict:
        """The verifier: the reply's tokens against the right register."""
        readable = END in reply
        return Verdict(readable and list(reply[: reply.index(END) + 1]) == self.answer(turn), readable)


@dataclass(frozen=True)
class Verdict:
    """The verifier's judgement of one turn."""

    right: bool
    """The reward: all digits, in order, and then the end."""
    readable: bool
    """The reply could be parsed, so the dialogue continues."""


def encode(text: str) -> list[int]:
    """Token ids of digits and operations."""
    return [SYMBOLS.index(symbol) for symbol in text]


def operate(operation: str, register: str) -> str:
    """The register after an operation."""
    if operation in PERMUTATIONS:
        return "".join(register[place] for place in PERMUTATIONS[operation])
    return "".join(sorted(register, reverse=ORDERS[operation]))


def is_held_out(register: str) -> bool:
    """By the multiset of digits: no training dialogue ever shows it, in whichever order."""
    return zlib.crc32("".join(sorted(register)).encode()) % HELD_OUT_SHARE == 0


def draw_episodes(count: int, turns: int, source: random.Random, *, held_out: bool) -> list[Episode]:
    """Random dialogues of `turns` turns, of held-out multisets or of the others."""
    episodes: list[Episode] = []
    while len(episodes) < count:
        registers = ["".join(source.choices("0123456789", k=WIDTH))]
        if is_held_out(registers[0]) != held_out:
            continue
        operations = source.choices(OPERATIONS, k=turns)
        for operation in operations:
            registers.append(operate(operation, registers[-1]))
        episodes.append(Episode(tuple(registers), tuple(operations)))
    return episodes
