"""The twenty reference updates through Tunix's learner, as far as its contract allows.

Tunix's own are the model, its log-probs, old ones included, the trainer, the accumulation and the optimizer's place in it;
stored are responses and advantages. What the contract leaves out: the denominator is a micro-batch's own count, so that
micro-batches must have as many responses each, as these have; and the norm of a gradient is logged per micro-batch.
"""

from __future__ import annotations

import pytest
from support.trainers.tunix_golden import follow

from integration.parity.comparison import FIELDS, compare
from integration.parity.reference import load

GOLDEN = load()


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_twenty_updates_stay_within_the_budget(micro_batches: int) -> None:
    """Loss, log s, clip decisions, parameters after every update, and the norm of a gradient that is one micro-batch's."""
    found = compare(follow(GOLDEN, micro_batches), GOLDEN)
    beyond = {deviation.what for deviation in found.deviations if deviation.beyond}
    assert beyond == (set() if micro_batches == 1 else {"gradient norm"}), str(found)
    assert len(found.deviations) == 20 * len(FIELDS) + len(GOLDEN.float64.parameters)
    assert found.missing == ()
