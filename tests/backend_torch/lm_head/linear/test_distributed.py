"""2 × 2 processes, vocabulary × sequence: values and gradients of one process to 1e-12, and nothing else is exchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.lm_head import ranks as head_ranks
from support.lm_head.cases import Answer, from_logits
from support.lm_head.processes import on_ranks
from support.lm_head.ranks import SPLITS, VOCABULARY, Split, problem_of
from torch import Tensor

pytestmark = pytest.mark.slow

by_split = pytest.mark.parametrize("name", SPLITS)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the four processes answered, by split."""
    return on_ranks(head_ranks.main, head_ranks.WORLD, tmp_path_factory.mktemp("ranks"))


def truth_of(split: Split) -> Answer:
    """One process, full logits."""
    return from_logits(problem_of(split))


def within(actual: Tensor, expected: Tensor) -> None:
    """1e-12 of the largest entry."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().amax() <= 1e-12 * expected.abs().amax() if actual.numel() else True


def joined(ranks: list[dict[str, Any]], name: str, what: str, axis: str) -> Tensor:
    """Parts put together: of columns (ranks 0 and 1), or of rows (ranks 0 and 2)."""
    first, second = (ranks[i][name][what] for i in ((0, 1) if axis == "columns" else (0, 2)))
    return torch.cat([first, second], dim=1 if axis == "columns" else 0)


@by_split
def test_the_value_and_the_weights_are_those_of_one_process(ranks: list[dict[str, Any]], name: str) -> None:
    truth = truth_of(SPLITS[name])
    for rank in ranks:
        within(rank[name]["value"], truth.value)
    within(joined(ranks, name, "logp_grad", "columns"), truth.weight)


@by_split
def test_the_gradients_are_those_of_one_process(ranks: list[dict[str, Any]], name: str) -> None:
    truth = truth_of(SPLITS[name])
    within(joined(ranks, name, "hidden", "columns"), truth.gradients["hidden"])
    for what in ("lm_head", "bias"):
        within(joined(ranks, name, what, "rows"), truth.gradients[what])


@by_split
def test_ranks_of_a_vocabulary_agree_on_every_bit(ranks: list[dict[str, Any]], name: str) -> None:
    """Also on clip decisions, which are taken from reduced numbers; hidden states' gradients are whole on each."""
    for a, b in ((0, 2), (1, 3)):
        mine, theirs = ranks[a][name], ranks[b][name]
        for what in ("value", "logp_grad", "clipped", "log_ratio", "hidden"):
            assert torch.equal(mine[what], theirs[what]), what


def test_log_probs_are_those_of_one_process(ranks: list[dict[str, Any]]) -> None:
    name = "per-token advantages, log-probs"
    logp = truth_of(SPLITS[name]).logp
    assert logp is not None
    within(joined(ranks, name, "logp", "columns"), logp)


@by_split
def test_token_scores_are_those_of_one_process(ranks: list[dict[str, Any]], name: str) -> None:
    """Log-probs, entropies and sums of squared probabilities at temperature 1, without cap."""
    problem, split = problem_of(SPLITS[name]), SPLITS[name]
    with torch.no_grad():
        states = torch.where(problem.layout.valid[..., None], problem.hidden, 0.0)
        log_p = torch.log_softmax(states @ problem.lm_head.T + problem.bias, -1)
    tokens = torch.where(problem.layout.valid, problem.tokens, 0)
    p = log_p.exp()
    expected = log_p.gather(-1, tokens[..., None])[..., 0], -(p * log_p).sum(-1), p.square().sum(-1)
    for rank, columns in ((0, slice(0, split.column)), (1, slice(split.column, None))):
        valid = problem.layout.valid[:, columns]
        for mine, whole in zip(ranks[rank][name]["scores"], expected, strict=True):
            within(mine, whole[:, columns][valid])


@by_split
def test_exchanges_are_those_that_are_promised(ranks: list[dict[str, Any]], name: str) -> None:
    """Forward: per token of a rank one maximum, and two sums, three with entropies; N sums over the sequences' ranks, for
    the log ratios (or a token ratio's gains), one more each for KL and entropy. Backward: the states' gradient, once."""
    split, problem = SPLITS[name], problem_of(SPLITS[name])
    num = problem.layout.num_sequences
    advantage: Any = problem.advantage
    for rank, columns in ((0, slice(0, split.column)), (1, slice(split.column, None))):
        active = problem.layout.valid[:, columns].clone()
        everything = {"entropy", "kl", "per token"} & set(split.options)
        if not everything:
            active &= (advantage != 0)[:, None]
        tokens, live = int(active.sum()), int((truth_of(split).weight[:, columns] != 0).sum())
        if "entropy" in split.options:
            live = tokens
        sums = 2 + ("entropy" in split.options)
        per_token = [("max", tokens), ("sum", sums * tokens)] if tokens else []
        per_loss = [("sum", num)] * (1 + len({"entropy", "kl", "per token"} & set(split.options)))
        answers = ranks[rank][name]
        assert answers["forward"] == per_token + per_loss
        assert answers["backward"] == ([("sum", live * head_ranks.WIDTH)] if live else [])


def test_the_splits_are_not_vacuous(ranks: list[dict[str, Any]]) -> None:
    """There are clipped and live sequences, empty shards of both kinds, and both halves of a sequence count."""
    clipped = ranks[0]["uneven"]["clipped"]
    assert clipped.tolist() == [True, False, False, True, False]
    assert {0, VOCABULARY} <= {split.row for split in SPLITS.values()}
    assert {0, max(head_ranks.LENGTHS)} <= {split.column for split in SPLITS.values()}
    assert any(ranks[1]["uneven"]["logp_grad"].any(1) & ranks[0]["uneven"]["logp_grad"].any(1))


@pytest.mark.parametrize("what", ["value", "hidden", "lm_head"])
def test_a_lost_exchange_would_be_seen(ranks: list[dict[str, Any]], what: str) -> None:
    """The guard: ten times the tolerance is refused; a lost exchange is no smaller than a token's share."""
    truth = truth_of(SPLITS["uneven"])
    expected = truth.value if what == "value" else truth.gradients[what]
    actual = ranks[0]["uneven"]["value"] if what == "value" else None
    if actual is None:
        actual = joined(ranks, "uneven", what, "columns" if what == "hidden" else "rows")
    with pytest.raises(AssertionError):
        within(actual * (1 + 1e-11), expected)


def test_unequal_numbers_of_sequences_are_refused_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    """And at once: without the comparison they wait for each other's bytes until the time-out."""
    for rank, answers in enumerate(ranks):
        expected = "layout: expected the same number of sequences, or of their turns, on every rank, got 2 to"
        last = rank == head_ranks.WORLD - 1
        here = (3, 4) if last else (2, 2)
        assert answers["unequal"] == [f"{expected} {most} ({own} here)" for most, own in zip((3, 4), here, strict=True)]
