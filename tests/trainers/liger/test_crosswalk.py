"""Every row of docs/crosswalk.md for Liger-Kernel, in its chunked loss."""

from typing import Any

import pytest
import torch
from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss
from support.trainers.crosswalk import REFERENCE, Row, compare
from support.trainers.crosswalk_calls import in_torch
from support.trainers.crosswalk_rows import of
from support.trainers.crosswalk_stated import check

from integration.wild.hosts.liger import loss


def of_log_probs(loss: Any) -> Any:
    """A loss of logits as one of log-probs: two words, the first of which has the log-prob; float32, as in the loss."""

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        logits = torch.stack([logp, torch.log1p(-torch.exp(logp))], -1).float()
        tokens = torch.zeros(mask.shape, dtype=torch.int64)
        return loss(logits, tokens, old_logp.float(), advantage.float(), mask)

    return call


def theirs(row: Row) -> Any:
    """Its loss for the settings of a row."""
    return in_torch(of_log_probs(loss(reference=REFERENCE, **row.settings)))


@pytest.mark.parametrize("row", of("Liger-Kernel"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, theirs(row), rtol=1e-5)


def test_what_the_page_states() -> None:
    """Defaults, rows without a token, names of metrics."""
    check("Liger-Kernel", theirs, LigerFusedLinearGRPOLoss)
