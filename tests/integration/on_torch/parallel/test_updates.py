"""An update of several processes is that of one, however the mini-batch falls apart: parameters, clip decisions and metrics."""

from __future__ import annotations

from typing import Any

import pytest
from support.runs.on_processes import on_processes_of

from integration.parity import reference as golden
from integration.parity.comparison import compare

pytestmark = pytest.mark.slow
RUNS: dict[int, list[dict[str, Any]]] = {
    2: [{"parallel": "ddp"}, {"parallel": "fsdp"}, {"context_parallel": 2}, {"vocabulary_parallel": 2}],
    4: [
        {"parallel": "ddp"},
        {"parallel": "fsdp", "gradient_checkpointing": True},
        {"parallel": "fsdp", "gradient_checkpointing": True, "context_parallel": 2},
        {"context_parallel": 2, "vocabulary_parallel": 2},
    ],
}


@pytest.fixture(scope="module", params=sorted(RUNS))
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of all runs on so many processes."""
    found = on_processes_of(request.param, RUNS[request.param], tmp_path_factory.mktemp("processes"))
    assert len(found) == 2 * len(RUNS[request.param])
    return found


def test_one_update_is_that_of_one_process(results: dict[str, Any]) -> None:
    """In float64 to 1e-12, over mini-batches drawn by hypothesis: empty processes, micro-batches, nobody with an advantage."""
    for name, worst in results.items():
        if not name.startswith("golden"):
            assert worst["parameters"] <= 1e-12, name
            assert worst["metrics"] <= 1e-12, name
            assert worst["log_s"] <= 2e-7, "a line of metrics has seven digits of it"
            assert worst["clipped"] == 0, name
            assert worst["cases"] >= 12
            assert worst["idle"] >= 2, "a process has nothing to do in some of them"


def test_twenty_updates_in_float32_stay_within_the_budget_of_one_process(results: dict[str, Any]) -> None:
    stored, runs = golden.load(), {name: run for name, run in results.items() if name.startswith("golden")}
    assert runs
    for name, run in runs.items():
        found = compare(run, stored)
        assert found.ok, f"{name}: {found}"
        assert found.missing == ()
        assert len(found.deviations) == 20 * 5 + len(stored.float64.parameters)
