"""A family that dies or hangs is one row of the sweep."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.repository import PATHS

from integration.zoo import sweep

IN_A_PROCESS_OF_ITS_OWN = """
import os, time
from integration.tasks.task import Task
from integration.zoo import sweep
from integration.zoo.trial import Trial

def stand_in(family, _):
    if family == "dies":
        os._exit(7)
    if family == "hangs":
        time.sleep(60)
    return Trial(family, "right")

sweep.try_family, sweep.sweep_task = stand_in, lambda: Task("nothing", [], [], lambda *_: 0.0)
for row in sweep.sweep(["a", "dies", "hangs", "b"], seconds=1.0):
    print(row.family, row.verdict, row.reason, sep="|")
"""


@pytest.mark.slow
def test_a_family_that_dies_or_hangs_is_one_row() -> None:
    """The sweep forks, which a process with JAX's threads must not."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN], env=environment, capture_output=True, text=True, check=True
    )
    rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    assert [row[:2] for row in rows] == [["a", "right"], ["dies", "traceback"], ["hangs", "out of time"], ["b", "right"]]
    assert rows[1][2] == "the process died with status 7"


def test_every_family_of_transformers_is_swept_once() -> None:
    assert len(sweep.families()) == len(set(sweep.families())) > 150
