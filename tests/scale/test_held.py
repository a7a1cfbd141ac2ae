"""Memory per GPU is that of the training script's own updates within 15 %, and is shared out as the layouts say."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import update_memory
from gspo_scale import PRESETS, Spread, Work, memory
from gspo_scale.held import TILES
from gspo_scale.plans import rows_at_once
from hypothesis import given
from hypothesis import strategies as st
from support.pages import DOCS
from support.repository import ROOT
from support.runs.scripts import environment

MODEL = PRESETS["qwen3-0.6b"]
ALLOWED = 0.15
works = st.builds(
    Work, st.integers(1, 500), st.integers(1, 5000), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4),
    st.none() | st.integers(1, 10**5), st.sampled_from(["float32", "bfloat16"]), st.booleans(), st.booleans(),
)  # fmt: skip
powers = st.integers(0, 4).map(lambda n: 2**n)


def test_the_committed_record_is_within_15_percent_of_what_is_counted_now() -> None:
    """Of every case; a change of the formula that leaves the record behind is seen here."""
    rows = json.loads(update_memory.RESULTS.read_text(encoding="utf-8"))["rows"]
    assert {row["case"] for row in rows} == set(update_memory.CASES)
    assert len(rows) >= 3
    for row in rows:
        counted = update_memory.counted(update_memory.CASES[row["case"]])
        assert round(counted.peak / 2**20, 1) == row["counted_mib"]
        assert abs(row["counted_mib"] / row["measured_mib"] - 1) <= ALLOWED, row["case"]


def test_the_page_has_the_record() -> None:
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    for row in json.loads(update_memory.RESULTS.read_text(encoding="utf-8"))["rows"]:
        assert f"| {row['case']} | {row['parameters']:,} | {row['tokens']:,} | {row['measured_mib']:,.1f} |" in page


def test_the_cases_are_of_different_kinds() -> None:
    """What is largest differs: parameters, activations, the head."""
    largest = {update_memory.counted(case).largest() for case in update_memory.CASES.values()}
    assert len(largest) >= 2


@pytest.mark.slow
def test_and_of_what_an_update_takes_here(tmp_path: Path) -> None:
    """The smallest case, in a process of its own."""
    out = tmp_path / "update_memory.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "update_memory.py"), "--only", "small", "--out", str(out)]
    subprocess.run(command, env={**environment(), "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=300)
    (row,) = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert row["measured_mib"] > 300
    assert abs(row["counted_mib"] / row["measured_mib"] - 1) <= ALLOWED


@given(work=works, gpus=powers)
def test_fsdp_shares_states_out_and_ddp_does_not(work: Work, gpus: int) -> None:
    whole = memory(MODEL, replace(work, dtype="float32"), Spread())
    shared = memory(MODEL, replace(work, dtype="float32"), Spread(2 * gpus, "fsdp"))
    copied = memory(MODEL, replace(work, dtype="float32"), Spread(2 * gpus))
    assert 0 <= shared.states - whole.states / (2 * gpus) < 3
    assert copied.states == whole.states + 4 * MODEL.parameters  # the buckets
    assert shared.gathered > 0 == copied.gathered


@given(work=works, context=powers, vocabulary=powers)
def test_each_rank_of_a_sequence_has_its_tokens_and_each_of_the_vocabulary_its_rows(
    work: Work, context: int, vocabulary: int
) -> None:
    """With the same sequences in a forward pass."""
    alone = memory(MODEL, work, Spread())
    among = memory(MODEL, work, Spread(context * vocabulary, context=context, vocabulary=vocabulary))
    rows = rows_at_once(work, Spread())
    layers = 1 if work.checkpointing else MODEL.layers
    keys = layers * 2 * work.item * MODEL.keys * work.length * rows if context > 1 else 0  # from all ranks
    one_token = alone.activations / (rows * work.length)
    assert among.activations - keys == pytest.approx(alone.activations / context, abs=one_token)
    assert among.head <= TILES + 4 * MODEL.head / vocabulary + 1
    assert among.states >= alone.states


@given(work=works, gpus=powers)
def test_more_gpus_never_need_more_memory_each_with_fsdp(work: Work, gpus: int) -> None:
    few, many = (memory(MODEL, work, Spread(count, "fsdp")) for count in (2 * gpus, 4 * gpus))
    assert many.peak <= few.peak


def test_a_trained_part_has_gradients_and_moments_of_its_own_size() -> None:
    adapters = memory(MODEL, Work(), Spread(), trained=10**6)
    assert adapters.states == 4 * MODEL.parameters + 12 * 10**6


def test_a_million_tokens_of_padded_sequences_are_stopped_by_the_mask() -> None:
    work = Work(prompt=2**10, response=2**20, checkpointing=True, sampling=False, micro_batch_tokens=1)
    assert memory(MODEL, work, Spread()).largest() == "mask"
    assert memory(MODEL, replace(work, padded=False), Spread()).mask == 0
