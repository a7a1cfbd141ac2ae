"""Which combinations of library, member of the family, layout and precision are computed.

NumPy and PyTorch meet every combination. In a library that compiles, or takes a tenth of a second per call, a product of 18
members × 6 layouts × 2 precisions would be a third of the suite's time, so that cells are chosen by pairs. Members are
compositions of parts that do not look at the library, and layouts do not look at the precision, so that pairs suffice there:
in such a library every ratio, surrogate, gate and reduction of the family occurs and every layout meets every precision, and
among these libraries together every member that occurs meets both precisions; family/test_matches_the_papers.py asserts it.
JAX without jit, whose operations are those of jit, meets every layout once. Members meet every layout in the quick libraries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from support.family import MEMBERS, Member
from support.inputs.arrangements import ARRANGEMENTS, Arrangement
from support.libraries import COMPILED_JAX, COMPILED_TORCH, DASK, EVERYWHERE, JAX, NUMPY, STRICT, TORCH, Library

DTYPES = (np.float32, np.float64)
IN_PAIRS = [COMPILED_TORCH, JAX, COMPILED_JAX, DASK, STRICT]
"""Libraries whose cells are chosen by pairs; JAX compiles every operation at a new shape when it runs eagerly, too."""
RECOMBINED = {"LUSPO", "GRPO", "DAPO", "BNPO", "CISPO", "IPO"}
"""Members whose parts all occur in others: GSPO, DR_GRPO, DPPO, GMPO."""
OF_EVERY_PART = [member for member in MEMBERS if member.name not in RECOMBINED]
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
    """All combinations; in a library whose cells are chosen by pairs one cell per member, in JAX without jit every other one.

    From member to member the layout moves on by one and the precision changes, once more after each round of the layouts;
    from library to library the layouts are shifted by one and the precisions swap.
    """
    if library not in IN_PAIRS:
        return [Cell(library, member, a, dtype) for member in MEMBERS for a in ARRANGEMENTS for dtype in DTYPES]
    return _one_per_member(library, OF_EVERY_PART[:: 2 if library is JAX else 1], IN_PAIRS.index(library))


def _one_per_member(library: Library, members: list[Member], shift: int) -> list[Cell]:
    count = len(ARRANGEMENTS)
    return [
        Cell(library, member, ARRANGEMENTS[(i + shift) % count], DTYPES[(i + i // count + shift) % 2])
        for i, member in enumerate(members)
    ]


CELLS = [cell for library in EVERYWHERE for cell in cells_of(library)]


def marks_of(cell: Cell) -> tuple[pytest.MarkDecorator, ...]:
    """Quick are NumPy's cells, and one per member of PyTorch and array-api-strict."""
    quick = cell.library in (NUMPY, STRICT) or (cell.library is TORCH and cell in _one_per_member(TORCH, MEMBERS, 0))
    return () if quick else (pytest.mark.slow,)


by_cell = pytest.mark.parametrize("cell", [pytest.param(cell, id=cell.name, marks=marks_of(cell)) for cell in CELLS])
