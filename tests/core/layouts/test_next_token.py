"""next_tokens is the loop that a careful person writes: a slot predicts the next token of its own sequence, if there is one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.libraries import COMPILED_JAX, COMPILED_TORCH, EVERYWHERE, Library

from gspo_core.layouts import NextTokens, Turns, next_tokens


@dataclass(frozen=True)
class Row:
    """Sequences one behind the other, and padding at the end."""

    lengths: list[int]
    prompts: list[int]
    tail: int
    produced: list[bool]
    """Of every slot, padding included: whether the policy produced its token, for calls with a mask."""

    @property
    def total(self) -> int:
        """T."""
        return sum(self.lengths) + self.tail

    @property
    def offsets(self) -> np.ndarray:
        """cu_seqlens."""
        return np.cumsum([0, *self.lengths])

    @property
    def ids(self) -> np.ndarray:
        """All different, none of them 0."""
        return np.arange(self.total) + 100

    def after_prompts(self) -> Row:
        """The row whose mask has the tokens behind each prompt."""
        places = [place for length in self.lengths for place in range(length)] + [0] * self.tail
        prompts = [p for p, length in zip(self.prompts, self.lengths, strict=True) for _ in range(length)] + [0] * self.tail
        return replace(self, produced=[place >= prompt for place, prompt in zip(places, prompts, strict=True)])

    def loop(self) -> tuple[list[int], list[int]]:
        """(segment ids, target tokens), slot by slot."""
        segments, targets = [-1] * self.total, [0] * self.total
        start = 0
        for number, length in enumerate(self.lengths):
            for place in range(1, length):
                if self.produced[start + place]:
                    segments[start + place - 1] = number
                    targets[start + place - 1] = start + place + 100
            start += length
        return segments, targets


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Up to five sequences of up to six tokens, empty ones and prompts longer than the sequence included."""
    lengths = draw(st.lists(st.integers(0, 6), max_size=5))
    prompts = [draw(st.integers(0, 7)) for _ in lengths]
    tail = draw(st.integers(0, 3))
    total = sum(lengths) + tail
    return Row(lengths, prompts, tail, draw(st.lists(st.booleans(), min_size=total, max_size=total)))


EXAMPLE = Row([4, 0, 1, 3, 2], [2, 0, 1, 0, 5], 2, [False, True, True, True, True, False, True, True, True, False, True, True])


def found(library: Library, row: Row, *, by_mask: bool) -> tuple[list[int], list[int], list[bool]]:
    """(segment ids, target tokens, predicting slots) of the function under test."""

    def call(ids: Any, offsets: Any, which: Any) -> tuple[Any, ...]:
        result = next_tokens(ids, offsets, **{"mask" if by_mask else "prompt_lengths": which})
        assert result.layout.num_sequences == len(row.lengths)
        return result.layout.segment_ids, result.tokens, result.predicts

    which = np.array(row.produced, dtype=bool) if by_mask else np.array(row.prompts, dtype=np.int64)
    arrays = [library.array(x) for x in (row.ids, row.offsets, which)]
    segments, tokens, predicts = (library.numpy(x).tolist() for x in library.run(call)(*arrays))
    return segments, tokens, predicts


def assert_the_loops(library: Library, row: Row) -> None:
    """Both ways of saying which tokens the policy produced."""
    for by_mask, expected in ((True, row.loop()), (False, row.after_prompts().loop())):
        segments, tokens, predicts = found(library, row, by_mask=by_mask)
        assert (segments, tokens) == expected
        assert predicts == [segment >= 0 for segment in segments]


@given(rows())
def test_it_is_the_loop(library: Library, row: Row) -> None:
    assert_the_loops(library, row)


# Torch deprecates parts of itself, which Dynamo uses.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.parametrize("library", EVERYWHERE, ids=lambda library: library.name)
def test_it_is_the_loop_in_every_library_and_compiled(library: Library) -> None:
    with library.precision(np.float64):
        assert_the_loops(library, EXAMPLE)


def test_the_example_has_every_edge() -> None:
    """An empty sequence, one of one token, no prompt, a prompt longer than its sequence, padding; and it is not vacuous."""
    assert 0 in EXAMPLE.lengths
    assert 1 in EXAMPLE.lengths
    assert any(p == 0 < length for p, length in zip(EXAMPLE.prompts, EXAMPLE.lengths, strict=True))
    assert any(p > length for p, length in zip(EXAMPLE.prompts, EXAMPLE.lengths, strict=True))
    assert EXAMPLE.tail
    for row in (EXAMPLE, EXAMPLE.after_prompts()):
        segments, _ = row.loop()
        assert len({s for s in segments if s >= 0}) >= 2
    assert COMPILED_JAX in EVERYWHERE
    assert COMPILED_TORCH in EVERYWHERE


@given(rows())
def test_no_slot_predicts_across_a_border_and_none_is_counted_twice(row: Row) -> None:
    """Each produced token that has a predecessor in its sequence is predicted by exactly one slot."""
    result = next_tokens(row.ids, row.offsets, mask=np.array(row.produced, dtype=bool))
    starts = {int(offset) for offset in row.offsets}
    wanted = [t + 100 for t in range(int(row.offsets[-1])) if row.produced[t] and t not in starts]
    assert sorted(result.tokens[result.predicts].tolist()) == wanted
    ends = [int(offset) - 1 for offset in row.offsets[1:] if offset > 0]
    assert not result.predicts[ends].any()
    assert not result.predicts[int(row.offsets[-1]) :].any()


def test_arrays_of_the_tokens_move_to_the_slots_that_predict_them() -> None:
    """NaN in slots that hold no token of the policy reaches nothing; turn ids go into Turns."""
    row = EXAMPLE.after_prompts()
    logp = np.where(row.produced, -np.arange(row.total) / 8, np.nan)
    result: NextTokens = next_tokens(row.ids, row.offsets, prompt_lengths=np.array(row.prompts))
    expected = [0.0 if target == 0 else -(target - 100) / 8 for target in row.loop()[1]]
    assert result.shifted(logp).tolist() == expected
    assert result.shifted(row.ids).tolist() == result.tokens.tolist()
    turns = Turns(result.layout, result.shifted(np.arange(row.total) % 2), 2)
    assert turns.lengths().tolist() == result.layout.lengths().tolist()
    assert turns.turns.each.lengths().sum() == result.predicts.sum()


def test_one_dtype_of_offsets_and_another_of_lengths() -> None:
    """int32 offsets, as attention kernels take them, with int64 lengths."""
    result = next_tokens(np.arange(5), np.array([0, 5], dtype=np.int32), prompt_lengths=np.array([3]))
    assert result.layout.segment_ids.tolist() == [-1, -1, 0, 0, -1]
    assert result.layout.segment_ids.dtype == np.int32
