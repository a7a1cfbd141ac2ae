"""The studies' processes are forked from the server of all tests: one that a study starts has imported too little."""

from __future__ import annotations

import pytest
from support.runs.server import started_server


@pytest.fixture(autouse=True)
def _one_server(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("slow"):
        started_server()
