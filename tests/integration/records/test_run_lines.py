"""Lines in which the report would miss something are named when a run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.runs.metrics import metrics_row

from integration.options.errors import UserError
from integration.records.run_lines import NEEDED, require_whole_lines

EVALUATION = {"step": 1, "sampled_accuracy": 0.5, "greedy_accuracy": 1.0, "sampled": [0.5], "greedy": [1.0]}


@pytest.mark.parametrize("name", sorted(NEEDED))
@pytest.mark.parametrize("wrong", [None, "a text"])
def test_a_line_that_the_report_could_not_read_is_named(name: str, wrong: Any) -> None:
    whole = metrics_row(1) if name == "metrics.jsonl" else EVALUATION
    for key in NEEDED[name]:
        row = {k: v for k, v in whole.items() if k != key} | ({} if wrong is None else {key: wrong})
        with pytest.raises(UserError, match=rf"{name}: line 2 is damaged: expected .*{key}.*, got "):
            require_whole_lines(Path(name), [whole, row])
    require_whole_lines(Path(name), [whole, whole])
