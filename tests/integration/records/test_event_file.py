"""TensorBoard reads the numbers of a run, and of a resumed one those that count."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs.metrics import metrics_row
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from integration.options.config import Config
from integration.records.event_file import EventFile, histogram
from integration.records.run_folder import RunFolder


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) as TensorBoard shows it."""
    read = EventAccumulator(str(folder))
    read.Reload()
    return [(point.step, point.value) for point in read.Scalars(name)]


def test_numbers_are_read_back_and_a_resumed_run_replaces_its_steps(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    killed = EventFile(folder, 1, {})
    for step in (1, 2, 3):
        killed.add(step, {"metrics/reward": step / 4, "metrics/clip": float("nan")}, {})
    resumed = EventFile(folder, 2, {})
    resumed.add(2, {"metrics/reward": 8.0}, {})
    assert curve(folder, "metrics/reward") == [(1, 0.25), (2, 8.0)]
    assert len(curve(folder, "metrics/clip")) == 1


@given(values=st.lists(st.floats(-1.0, 1.0) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=50))
def test_a_histogram_holds_every_finite_number_once(values: list[float]) -> None:
    made = histogram(values)
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    assert sum(made.bucket) == made.num == len(finite)
    assert made.sum == pytest.approx(math.fsum(finite), abs=1e-12)
    assert len(made.bucket) == len(made.bucket_limit)
    below = sum(value <= made.bucket_limit[9] for value in finite)
    assert abs(sum(made.bucket[:10]) - below) <= sum(value == made.bucket_limit[9] for value in finite), "edges are apart"


def test_log_s_and_the_options_are_read_back(folder: RunFolder) -> None:
    for step in (1, 2):
        folder.append("metrics.jsonl", metrics_row(step, log_s=[0.1, 0.2, -0.3 * step]))
    read = EventAccumulator(str(folder.path / "tensorboard"), size_guidance={"histograms": 0})
    read.Reload()
    assert [(point.step, round(point.histogram_value.min, 6)) for point in read.Histograms("metrics/log_s")] == [
        (1, -0.3),
        (2, -0.6),
    ]
    (start,) = [value for value in read.summary_metadata.values() if value.plugin_data.plugin_name == "hparams"]
    options = HParamsPluginData.FromString(start.plugin_data.content).session_start_info.hparams
    assert options["lr"].number_value == Config().lr
    assert options["warm_up.hidden"].number_value == Config().warm_up.hidden
    assert options["objective"].string_value == "gspo"
    folder.close()
