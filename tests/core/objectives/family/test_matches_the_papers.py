"""The laws of value, gradient and reports, asked in every library, every layout and either precision, by an oracle of its own.

No second body of laws: gspo_core/laws states them; here is one judge, the scalar loops of oracle_family, which anchor the kit's
(test_laws_presets holds the two against each other), and one budget, `Member.assert_judged`. Random batches of any shape where
a new shape costs nothing; batches of one shape where it must be compiled.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.cases import Batch, batches, core, core_loss
from support.cells import CELLS, DTYPES, IN_PAIRS, OF_EVERY_PART, Cell, by_cell, cells_of
from support.family import MEMBERS, Member, by_member, largest
from support.inputs.arrangements import ARRANGEMENTS, PACKED, Arrangement
from support.inputs.one_shape import EXAMPLES, N, T
from support.libraries import EVERYWHERE, JAX, NUMPY, STRICT, TORCH, Library

pytestmark = [
    # What torch says about itself while tracing; test_torch_compile has the reasons.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated"),
]

BEYOND_THE_GUARD = 49.0
"""From log ρ = 50 on the core continues exp along its tangent; laws/chapters/arrays/extremes.py says what holds there."""

EPS = float(np.finfo(np.float32).eps)
F32, F64 = np.float32, np.float64


def advantages(member: Member, batch: Batch) -> list[np.ndarray]:
    """One per response, and where the ratio takes it one per token."""
    return [member.advantage(batch, per_token) for per_token in sorted({False, member.per_token})]


# ---- any shape


# array-api-strict takes most of the time; its cells of one shape, in both precisions, are quick.
@pytest.mark.parametrize("library", [NUMPY, TORCH, pytest.param(STRICT, marks=pytest.mark.slow)], ids=lambda x: x.name)
@by_member
@given(batch=batches(edges=False, max_tokens=5), arrangement=st.sampled_from(ARRANGEMENTS))
def test_any_batch_in_any_layout(library: Library, member: Member, arrangement: Arrangement, batch: Batch) -> None:
    assume(largest(batch) < BEYOND_THE_GUARD)
    for advantage in advantages(member, batch):
        assume(member.is_clear_of_kinks(batch, advantage, 1e-9))
        loss = core_loss(library, member.objective, batch, advantage, arrangement=arrangement)
        assert loss.value.dtype == F64
        member.assert_judged(loss, batch, advantage)


@pytest.mark.parametrize("library", [NUMPY, TORCH], ids=lambda library: library.name)
@by_member
@given(batch=batches(edges=False, max_tokens=5), arrangement=st.sampled_from(ARRANGEMENTS))
def test_any_batch_in_float32(library: Library, member: Member, arrangement: Arrangement, batch: Batch) -> None:
    batch = batch.rounded(F32)
    assume(largest(batch) < BEYOND_THE_GUARD)
    assume(member.is_clear_of_kinks(batch, batch.advantage, 2 * member.rounding(batch, EPS)))
    loss = core_loss(library, member.objective, batch, dtype=F32, arrangement=arrangement)
    assert loss.value.dtype == loss.logp_grad.dtype == F32
    member.assert_judged(loss, batch, batch.advantage)


# ---- one shape, every library


@by_cell
def test_one_shape_in_every_library(cell: Cell) -> None:
    library, member, arrangement, dtype = cell
    quick = not library.compiles and not library.slow
    kinds = {False, member.per_token} if quick else {member.per_token and arrangement is not PACKED}
    for per_token in kinds:
        loss = core(library, member.objective, arrangement, per_token)
        for batch in list(EXAMPLES.values())[: 2 if library.slow else None]:
            advantage = member.advantage(batch, per_token)
            found = loss(batch, advantage, dtype)
            assert found.value.dtype == found.logp_grad.dtype == found.log_ratio.dtype == dtype
            member.assert_judged(found, batch, advantage)
            assert not found.logp_grad[~batch.mask].any()


# ---- guards


def met(cells: list[Cell], *fields: str) -> set[tuple[str, ...]]:
    """The combinations of some of a cell's fields that occur."""
    return {tuple(str(getattr(getattr(cell, field), "name", getattr(cell, field))) for field in fields) for cell in cells}


def all_of(*choices: list[Any]) -> set[tuple[str, ...]]:
    """Every combination of the choices, by name."""
    return set(itertools.product(*([str(getattr(x, "name", x)) for x in choice] for choice in choices)))


def test_every_pair_is_met_and_no_cell_occurs_twice() -> None:
    in_pairs, quick = [c for c in CELLS if c.library in IN_PAIRS], [c for c in CELLS if c.library not in IN_PAIRS]
    libraries = [library for library in EVERYWHERE if library not in IN_PAIRS]
    fields = ("library", "member", "arrangement", "dtype")
    assert met(quick, *fields) == all_of(libraries, MEMBERS, ARRANGEMENTS, DTYPES)
    without_jit = [c for c in in_pairs if c.library is JAX]
    assert met(in_pairs, "library", "arrangement") == all_of(IN_PAIRS, ARRANGEMENTS)
    assert met(in_pairs, "library", "dtype") == all_of(IN_PAIRS, DTYPES)
    others = [library for library in IN_PAIRS if library is not JAX]
    in_full = [c for c in in_pairs if c not in without_jit]
    assert met(in_full, "library", "arrangement", "dtype") == all_of(others, ARRANGEMENTS, DTYPES)
    assert met(in_full, "library", "member") == all_of(others, OF_EVERY_PART)
    assert met(in_full, "member", "dtype") == all_of(OF_EVERY_PART, DTYPES)
    assert len(met(CELLS, *fields)) == len(CELLS)


def parts(members: list[Member]) -> set[type]:
    """Classes of their ratios, surrogates, reductions and gates."""
    return {
        type(x) for m in members for x in (m.objective.ratio, m.objective.surrogate, m.objective.reduction, m.objective.gate)
    }


def test_every_part_of_the_family_is_among_those_in_pairs() -> None:
    assert parts(OF_EVERY_PART) == parts(MEMBERS)
    assert len(OF_EVERY_PART) == len(ARRANGEMENTS) * len(DTYPES)


@pytest.mark.parametrize("library", [x for x in IN_PAIRS if x.compiles or x.slow], ids=lambda library: library.name)
def test_a_library_that_compiles_meets_both_kinds_of_advantage(library: Library) -> None:
    """Ratios per token take [N, T], and one per sequence in packed layouts, where [N, T] would be no other program."""
    assert {cell.arrangement is PACKED for cell in cells_of(library) if cell.member.per_token} == {True, False}


def test_every_member_with_advantages_per_token_takes_them_in_pairs_too() -> None:
    cells = [cell for library in IN_PAIRS for cell in cells_of(library) if cell.member.per_token]
    assert {cell.member.name for cell in cells if cell.arrangement is not PACKED} == {
        m.name for m in OF_EVERY_PART if m.per_token
    }


@by_member
def test_the_examples_silence_and_spare_units_of_every_member(member: Member) -> None:
    """Every hard gate closes somewhere and stays open elsewhere, in the first two examples already."""
    verdicts = [member.judged(batch, batch.advantage) for batch in list(EXAMPLES.values())[:2]]
    silent = np.concatenate([np.asarray(v.clipped, dtype=bool).reshape(-1) for v in verdicts])
    assert any(np.any(v.weight) for v in verdicts)
    assert silent.any() == member.has_an_edge


@by_member
def test_the_examples_are_clear_of_kinks_in_float32(member: Member) -> None:
    for batch in EXAMPLES.values():
        for advantage in advantages(member, batch):
            assert member.is_clear_of_kinks(batch, advantage, 2 * member.rounding(batch, EPS))


def test_the_examples_have_what_layouts_must_stand() -> None:
    lengths = {name: batch.mask.sum(axis=1) for name, batch in EXAMPLES.items()}
    assert {name for name, n in lengths.items() if (n == 0).any()} >= {"right padding", "left padding", "holes", "nothing"}
    assert not lengths["nothing"].any()
    assert not EXAMPLES["left padding"].mask[1, 0]
    assert not np.isfinite(EXAMPLES["left padding"].logp).all()
    assert {batch.mask.shape for batch in EXAMPLES.values()} == {(N, T)}
    assert all((batch.advantage == 0).any() for name, batch in EXAMPLES.items() if name != "nothing")


def test_the_judge_tells_every_member_from_every_other() -> None:
    """One example has another weight under each method; GSPO and GSPO-token must agree under equal advantages."""
    batch = EXAMPLES["right padding"]
    weights = {member.name: np.asarray(member.judged(batch, batch.advantage).weight) for member in MEMBERS}
    for one, other in itertools.combinations(sorted(weights), 2):
        same = (one, other) == ("GSPO", "GSPO_TOKEN")
        assert (np.abs(weights[one] - weights[other]).max() <= 1e-6) == same, (one, other)


@by_member
@pytest.mark.parametrize("dtype", [F32, F64])
def test_the_budget_would_notice(member: Member, dtype: type) -> None:
    """A value or a weight that is off by 1e-5 in float32, 1e-12 in float64, or one decision, fails."""
    batch = EXAMPLES["right padding"]
    loss = core_loss(NUMPY, member.objective, batch, dtype=dtype)
    size = {F32: 3e-4, F64: 1e-12}[dtype]
    for name, wrong in {
        "value": loss.value + size * member.judged(batch, batch.advantage).scale,
        "logp_grad": np.where(np.abs(loss.logp_grad) == np.abs(loss.logp_grad).max(), 1 + size, 1.0) * loss.logp_grad,
        "log_ratio": loss.log_ratio + size,
        "clipped": ~loss.clipped,
    }.items():
        with pytest.raises(AssertionError):
            member.assert_judged(loss._replace(**{name: wrong.astype(getattr(loss, name).dtype)}), batch, batch.advantage)
