"""Every row of docs/crosswalk.md for torchrl, through the forward of its loss modules."""

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from support.trainers.crosswalk import Row, compare
from support.trainers.crosswalk_calls import in_torch
from support.trainers.crosswalk_rows import of
from support.trainers.crosswalk_stated import check, text
from tensordict import TensorDict
from torchrl.objectives.llm import grpo


def loss(kind: str, **settings: Any) -> Any:
    """Its objective without entropy bonus; log-probs in place of the model."""
    module = getattr(grpo, kind)(entropy_bonus=False, **settings)

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        data = TensorDict(
            {
                "tokens": {"full": torch.zeros(mask.shape, dtype=torch.int64)},
                "log_probs": {"full": old_logp},
                "advantage": advantage[:, None, None].expand(*mask.shape, 1),
                "_cur_log_prob": logp,
            },
            [len(mask)],
        )
        with mock.patch.object(module, "_get_cur_log_prob", return_value=(logp, SimpleNamespace(mask=mask), False)):
            return module(data).loss_objective.squeeze()

    return call


def theirs(row: Row) -> Any:
    """Its loss for the settings of a row."""
    return in_torch(loss(row.kind, **row.settings))


@pytest.mark.parametrize("row", of("torchrl"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, theirs(row))


def test_what_the_page_states() -> None:
    """Defaults, rows without a token, names of metrics."""
    check("torchrl", theirs, grpo.GRPOLoss, text("torchrl", "torchrl/objectives/llm/grpo.py"))
