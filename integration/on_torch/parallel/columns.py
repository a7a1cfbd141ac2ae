"""How the token columns of a padded batch are shared out among the ranks of a context group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Piece(NamedTuple):
    """Neighbouring columns of one rank."""

    start: int
    """Its first column in the batch."""
    length: int

    @property
    def stop(self) -> int:
        """The column behind its last, and so how many columns its tokens may look at in a causal model."""
        return self.start + self.length


@dataclass(frozen=True)
class Columns:
    """The `width` columns of a batch on `ranks` ranks: one piece for each rank, or two (zig-zag), all of one length.

    In a causal model a late column attends to more columns than an early one, so that the last of the ranks would have most of
    the work. In zig-zag rank r holds the pieces r and 2C − 1 − r of 2C pieces, and all ranks have the same work. Columns that
    do not divide evenly are padded at the end, by less than one column a piece.

    >>> Columns(width=7, ranks=2, zigzag=True).pieces(0)
    (Piece(start=0, length=2), Piece(start=6, length=2))
    >>> Columns(width=7, ranks=2, zigzag=False).of(1).tolist()
    [4, 5, 6, 7]
    """

    width: int
    """Columns of the batch, at least 1."""
    ranks: int
    """C."""
    zigzag: bool

    @property
    def count(self) -> int:
        """Pieces of all ranks together."""
        return 2 * self.ranks if self.zigzag else self.ranks

    @property
    def length(self) -> int:
        """Columns in a piece."""
        return -(-self.width // self.count)

    @property
    def padded(self) -> int:
        """Columns of all pieces together, at least `width`."""
        return self.count * self.length

    def pieces(self, rank: int) -> tuple[Piece, ...]:
        """A rank's pieces, from left to right."""
        numbers = (rank, self.count - 1 - rank) if self.zigzag else (rank,)
        return tuple(Piece(number * self.length, self.length) for number in numbers)

    def of(self, rank: int) -> Tensor:
        """[w] numbers of a rank's columns, in the order in which it holds them."""
        return torch.cat([torch.arange(piece.start, piece.stop) for piece in self.pieces(rank)])

    def order(self) -> Tensor:
        """[padded] for each column of the batch its place when the ranks' columns stand one rank behind the other.

        >>> Columns(width=4, ranks=2, zigzag=True).order().tolist()
        [0, 2, 3, 1]
        """
        return torch.cat([self.of(rank) for rank in range(self.ranks)]).argsort()
