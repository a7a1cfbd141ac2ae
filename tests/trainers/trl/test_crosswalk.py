"""Every row of docs/crosswalk.md for TRL, in the `_compute_loss` of its trainers."""

from collections import defaultdict
from typing import Any

import pytest
from support.trainers.crosswalk import REFERENCE, WIDE, Row, batch, compare
from support.trainers.crosswalk_calls import in_torch
from support.trainers.crosswalk_rows import of
from support.trainers.crosswalk_stated import check, numbers, text
from trl import GRPOConfig

from gspo_core import GSPO, Objective
from gspo_core.objectives import BNPO
from integration.wild.hosts.trl import loss

WIDE_GSPO = GSPO.with_clip(0.2, 0.2)


def theirs(row: Row) -> Any:
    """Its loss for the settings of a row."""
    gmpo = {"module": "trl.experimental.gmpo", "kind": "GMPO"} if row.kind == "GMPOConfig" else {}
    return in_torch(loss(**gmpo, reference=REFERENCE, **row.settings))


@pytest.mark.parametrize("row", of("TRL"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, theirs(row))


def test_what_the_page_states() -> None:
    """Defaults, rows without a token, names of metrics."""
    check("TRL", theirs, GRPOConfig, text("trl", "trl/trainer/grpo_trainer.py"))


@pytest.mark.parametrize(
    ("objective", "level", "unit"), [(BNPO, "token", "_tokens"), (GSPO.with_clip(0.2, 0.2), "sequence", "")]
)
def test_the_metrics_that_the_page_puts_beside_ours(objective: Objective, level: str, unit: str) -> None:
    """Clip fractions are of tokens or of responses, as the ratio is."""
    given, ours = batch(WIDE), numbers(objective)
    logged: Any = defaultdict(lambda: defaultdict(list))
    in_torch(loss(importance_sampling_level=level, metrics=logged))(given)
    for side in ("low", "high"):
        (found,) = logged["train"][f"clip_ratio/{side}_mean"]
        assert 0 < found < 1
        assert ours[f"clip_{side}{unit}"] == pytest.approx(found, rel=1e-6)
    assert ours[f"clip_active{unit}"] == pytest.approx(logged["train"]["clip_ratio/region_mean"][0], rel=1e-6)
