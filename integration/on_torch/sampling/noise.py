"""Random numbers of sampled tokens: a response's depend on its row, and not on which rows are drawn beside it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Uniform numbers, column by column, for the rows of a whole rollout, of which a process may draw a part."""

    generator: torch.Generator
    rows: int
    """Of the whole rollout."""
    first: int = 0
    """The rollout's row that is row 0 here."""

    @staticmethod
    def drawn_from(generator: torch.Generator, rows: int) -> Noise:
        """The generator gives one number, however many columns are drawn: its state is then the same in all processes."""
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        return Noise(torch.Generator(generator.device).manual_seed(int(seed)), rows)

    def beginning_at(self, row: int) -> Noise:
        """The same numbers, for rows from `row` on."""
        return dataclasses.replace(self, first=row)

    def next(self) -> Tensor:
        """[rows − first, 1] float64 in [0, 1), of the next column."""
        numbers = torch.rand(self.rows, 1, dtype=torch.float64, device=self.generator.device, generator=self.generator)
        return numbers[self.first :]
