"""Which combinations of library, member of the family, layout and precision are computed.

A library that is quick meets every combination. In one that compiles, or takes a tenth of a second per call, a cell costs
about a second, and a product of 16 members × 6 layouts × 2 precisions would be a third of the suite's time. Members are
compositions of choices that do not look at the library, and layouts do not look at the precision, so that pairs suffice there:
in such a library every layout meets every precision, every member meets both precisions, and among these libraries together
every member meets every layout; test_family_matches_the_papers.py asserts it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from support.arrangements import ARRANGEMENTS, Arrangement
from support.family import MEMBERS, Member
from support.libraries import COMPILED_JAX, COMPILED_TORCH, DASK, EVERYWHERE, JAX, Library

DTYPES = (np.float32, np.float64)
IN_PAIRS = [COMPILED_TORCH, JAX, COMPILED_JAX, DASK]
"""Libraries whose cells are chosen by pairs; JAX compiles every operation at a new shape when it runs eagerly, too."""
OF_EVERYTHING_ELSE = [library for library in EVERYWHERE if library is not COMPILED_TORCH]
"""Advantages, weights and penalties of torch are computed outside of what is compiled; tracing them takes a minute."""


class Cell(NamedTuple):
    """One combination."""

    library: Library
    member: Member
    arrangement: Arrangement
    dtype: type

    @property
    def name(self) -> str:
        """Its id in test names."""
        return f"{self.library.name}-{self.member.name}-{self.arrangement}-{self.dtype.__name__}"


def cells_of(library: Library) -> list[Cell]:
    """All combinations; in a library whose cells are chosen by pairs two layouts per member, each with another precision.

    The layouts move on by one from member to member and from library to library, and after a round the precisions swap.
    """
    if library not in IN_PAIRS:
        return [Cell(library, member, a, dtype) for member in MEMBERS for a in ARRANGEMENTS for dtype in DTYPES]
    count, shift, chosen = len(ARRANGEMENTS), IN_PAIRS.index(library), []
    for i, member in enumerate(MEMBERS):
        swap = i // count
        for half in (0, 1):
            arrangement = ARRANGEMENTS[(i + shift + half * (count // 2)) % count]
            chosen.append(Cell(library, member, arrangement, DTYPES[(swap + half) % 2]))
    return chosen


CELLS = [cell for library in EVERYWHERE for cell in cells_of(library)]


def marks_of(library: Library) -> tuple[pytest.MarkDecorator, ...]:
    """Tests of a library that compiles are slow."""
    return (pytest.mark.slow,) if library in IN_PAIRS else ()


by_cell = pytest.mark.parametrize("cell", [pytest.param(cell, id=cell.name, marks=marks_of(cell.library)) for cell in CELLS])
