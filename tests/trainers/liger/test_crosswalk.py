"""Every row of docs/crosswalk.md for Liger-Kernel, in its chunked loss."""

from typing import Any

import pytest
import torch
from support.trainers.crosswalk import Row, compare
from support.trainers.crosswalk_calls import in_torch
from support.trainers.crosswalk_rows import of

from integration.wild.hosts.liger import loss


def of_log_probs(loss: Any) -> Any:
    """A loss of logits as one of log-probs: two words, the first of which has the log-prob; float32, as in the loss."""

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        logits = torch.stack([logp, torch.log1p(-torch.exp(logp))], -1).float()
        tokens = torch.zeros(mask.shape, dtype=torch.int64)
        return loss(logits, tokens, old_logp.float(), advantage.float(), mask)

    return call


@pytest.mark.parametrize("row", of("Liger-Kernel"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, in_torch(of_log_probs(loss(**row.settings))), rtol=1e-5)
