"""What gspo-scale says that a model sends is what two processes send in an update of train_torch.py's own, to the byte."""

from __future__ import annotations

from typing import Any

import pytest
from gspo_scale import Shape, Spread, Work, traffic
from support.lm_head.processes import on_ranks
from support.spread import traffic as ranks

pytestmark = pytest.mark.slow

SIZES = ranks.SIZES
SHAPE = Shape(
    SIZES.layers, SIZES.hidden, SIZES.heads, SIZES.key_value_heads, SIZES.head, SIZES.feed_forward, SIZES.vocabulary,
    SIZES.tied, extra=2 * SIZES.layers * SIZES.head,
)  # fmt: skip


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of each process, by the way in which the model is spread: bytes of the results of each collective."""
    return on_ranks(ranks.main, ranks.WORLD, tmp_path_factory.mktemp("ranks"))


def work(again: bool) -> Work:
    """As many responses as every process has of its own."""
    return Work(ranks.PROMPT, ranks.RESPONSE, prompts=1, group=ranks.ROWS * ranks.WORLD, mini_batches=1, checkpointing=again)


@pytest.mark.parametrize("again", [False, True])
def test_ddp_adds_up_gradients(sent: list[dict[str, Any]], again: bool) -> None:
    """A ring of two sends as much as the array has."""
    expected = traffic(SHAPE, work(again), Spread(2))
    assert expected.weights == expected.attention == 0
    assert [one[f"ddp, {again}"]["allreduce_"] for one in sent] == [expected.gradients] * 2 == [4 * SHAPE.parameters] * 2


@pytest.mark.parametrize("again", [False, True])
def test_fsdp_gathers_weights_and_scatters_gradients(sent: list[dict[str, Any]], again: bool) -> None:
    """Of two, each sends its half of what is gathered, and the half of the gradients that is not its own."""
    expected = traffic(SHAPE, work(again), Spread(2, "fsdp"))
    for one in sent:
        assert one[f"fsdp, {again}"]["_allgather_base_"] == 2 * expected.weights > 0
        assert one[f"fsdp, {again}"]["_reduce_scatter_base_"] == expected.gradients > 0


@pytest.mark.parametrize("again", [False, True])
def test_ranks_of_a_sequence_gather_keys_and_values(sent: list[dict[str, Any]], again: bool) -> None:
    """Each sends its own, and the other's gradients."""
    whole = Work(ranks.PROMPT, ranks.RESPONSE, prompts=1, group=ranks.ROWS, mini_batches=1, checkpointing=again)
    expected = traffic(SHAPE, whole, Spread(2, context=2))
    for one in sent:
        counted = one[f"context, {again}"]
        assert counted["allgather_"] // 2 + counted["reduce_scatter_"] == expected.attention > 0
        assert counted["allgather_"] == (4 if again else 2) * counted["reduce_scatter_"], (
            "once more where layers are recomputed"
        )
