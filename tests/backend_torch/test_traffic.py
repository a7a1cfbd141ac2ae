"""What a loss sends between ranks is what docs/scaling.md says: nothing of it grows with the vocabulary, little with tokens."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import gspo_torch
import torch
import torch.distributed as dist
from gspo_scale.sent import DENOMINATOR, METRICS, PER_SEQUENCE, PER_TOKEN
from gspo_torch import VocabularyShard, merge_over, sum_over
from hypothesis import given
from hypothesis import strategies as st
from support.draws import at_most
from support.gloo import on_gloo
from support.pages import DOCS
from support.traffic import Traffic

from gspo_core import GSPO, Padded, batch_metrics, group_metrics, sharded

RANKS, CHECK, SHARDED_METRICS = 2, 16, 72
"""`sum_over` compares the numbers of sequences before integers are added up on a CPU; metrics of sequences in parts."""


class Sizes(NamedTuple):
    """Sequences, tokens of each on a rank, vocabulary, width."""

    rows: int
    tokens: int
    vocabulary: int
    hidden: int


sizes = st.builds(Sizes, st.integers(1, 6), st.integers(1, 9), st.integers(3, 40), st.integers(1, 8))


def arguments(x: Sizes, seed: int, rows: slice = slice(None)) -> dict[str, Any]:
    """Of a loss whose responses all have an advantage and no clipping; with rows of the head."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(x.rows, x.tokens, x.hidden, generator=generator, requires_grad=True)
    head = torch.randn(x.vocabulary, x.hidden, generator=torch.Generator().manual_seed(0))[rows].clone().requires_grad_()
    tokens = torch.randint(x.vocabulary, (x.rows, x.tokens), generator=generator)
    return {"objective": GSPO, "hidden": hidden, "lm_head": head, "tokens": tokens, "advantage": torch.ones(x.rows)}


def layout_of(x: Sizes) -> Padded:
    return Padded(torch.ones(x.rows, x.tokens, dtype=torch.bool))


@given(x=sizes)
def test_data_parallel_ranks_send_one_number(x: Sizes) -> None:
    def work(rank: int, group: dist.ProcessGroup) -> int:
        layout, given_ = layout_of(x), arguments(x, rank)
        with Traffic() as traffic:
            count = GSPO.count(layout)
            dist.all_reduce(count, group=group)
            old = torch.zeros(x.rows, x.tokens)
            gspo_torch.linear_policy_loss(**given_, old_logp=old, layout=layout, denominator=count).value.backward()
        return traffic.bytes

    assert on_gloo(RANKS, work) == [DENOMINATOR] * RANKS


def test_and_metrics_of_a_constant_size() -> None:
    def work(_: int, group: dist.ProcessGroup) -> int:
        metrics = group_metrics(torch.tensor([1.0, -1.0]), torch.tensor([3, 3]))
        with Traffic() as traffic:
            merge_over(metrics, group)
        return traffic.bytes

    assert on_gloo(RANKS, work) == [METRICS] * RANKS


@at_most(5)
@given(x=sizes)
def test_ranks_that_share_sequences_send_a_length_and_a_sum_for_each(x: Sizes) -> None:
    def work(rank: int, group: dist.ProcessGroup) -> tuple[int, int]:
        given_, old = arguments(x, rank), torch.zeros(x.rows, x.tokens)
        with Traffic() as loss_traffic:
            layout = sharded(layout_of(x), sum_over(group))
            loss = gspo_torch.linear_policy_loss(**given_, old_logp=old, layout=layout, return_logp=True)
            loss.value.backward()
        with Traffic() as metrics_traffic:
            batch_metrics(GSPO, loss, loss.logp, old, given_["advantage"], layout)
        return loss_traffic.bytes, metrics_traffic.bytes

    assert on_gloo(RANKS, work) == [(CHECK + PER_SEQUENCE * x.rows, SHARDED_METRICS * x.rows)] * RANKS


@given(x=sizes, share=st.floats(0, 1))
def test_ranks_that_share_the_vocabulary_send_three_numbers_a_token_and_the_gradient_of_its_state(
    x: Sizes, share: float
) -> None:
    cut = int(share * x.vocabulary)

    def work(rank: int, group: dist.ProcessGroup) -> tuple[int, int]:
        rows = slice(0, cut) if rank == 0 else slice(cut, None)
        shard = VocabularyShard(rows.start, x.vocabulary, group)
        given_ = arguments(x, 0, rows)
        with Traffic() as forward:
            loss = gspo_torch.linear_policy_loss(**given_, old_logp=None, layout=layout_of(x), on_policy=True, vocabulary=shard)
        with Traffic() as backward:
            loss.value.backward()
        return forward.bytes, backward.bytes

    tokens = x.rows * x.tokens
    assert on_gloo(RANKS, work) == [(PER_TOKEN * tokens, 4 * x.hidden * tokens)] * RANKS


def test_the_page_says_these_numbers() -> None:
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (data|context|vocabulary) \|[^|]*\| ([^|]*bytes[^|]*) \|", page, re.MULTILINE))
    assert rows == {
        "data": f"{DENOMINATOR} bytes, and {METRICS:,} for metrics",
        "context": f"{PER_SEQUENCE} bytes a sequence, and {SHARDED_METRICS} for metrics",
        "vocabulary": f"{PER_TOKEN} bytes a token, and 4 H in backward",
    }
