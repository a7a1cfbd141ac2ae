"""gspo_jax.linear_policy_loss does not compute what has no gradient, and holds no array of tokens × vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from gspo_jax.lm_head import blocks, two_pass
from support.jax_programs.linear_cases import answers, arguments, largest_array, loss_of, ours, ring_of, small_pieces
from support.lm_head.cases import Problem, make

from gspo_core import GRPO, PerToken

pytestmark = pytest.mark.slow

V = 12
LENGTHS = (3, 5, 2, 4, 1)
ADVANTAGE = torch.tensor([1.0, 0.0, -1.0, 0.0, 2.0], dtype=torch.float64)


@contextmanager
def tiles_seen() -> Iterator[dict[str, int]]:
    """Rows that go through tiles at run time: of two-pass's forward, and of everything else."""
    seen, now = {"forward": 0, "backward": 0}, ["backward"]
    tile, scores = blocks.tile, two_pass._scores

    def counted(rows: Any, *rest: Any) -> Any:
        name = now[0]

        def count() -> None:
            seen[name] += len(rows)

        jax.debug.callback(count)
        return tile(rows, *rest)

    def forward(*args: Any) -> Any:
        now[0] = "forward"
        found = scores(*args)
        now[0] = "backward"
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "tile", counted)
        patch.setattr(two_pass, "_scores", forward)
        # Programs that count must not be found by those who do not, nor the other way round.
        forget(scores)
        yield seen
    forget(scores)


def forget(scores: Any) -> None:
    """What the two-pass scheme compiled."""
    for program in (scores, two_pass._sorted_gradients):
        program.clear_cache()


def count(problem: Problem, **options: Any) -> tuple[float, float]:
    """(rows in forward, rows in backward), the vocabulary in two blocks."""
    with small_pieces(chunk=1, block=6), tiles_seen() as seen:
        ours(problem, jit=True, **options)
        jax.effects_barrier()
    return seen["forward"] / 2, seen["backward"] / 2


def on_policy(**more: Any) -> Problem:
    """Nothing clipped, two of five sequences without an advantage."""
    return make(lengths=LENGTHS, vocabulary=V, advantage=ADVANTAGE, options={"on_policy": True}, **more)


def clipping() -> Problem:
    """Log ratios ±1: sequence 0 rose and is good, sequence 2 fell and is bad; both are clipped. Sequence 4 is live."""
    problem = make(lengths=LENGTHS, vocabulary=V, drift=0.0, advantage=ADVANTAGE)
    assert problem.old_logp is not None
    return replace(problem, old_logp=problem.old_logp - torch.tensor([1.0, 0.0, -1.0, 0.0, 0.0], dtype=torch.float64)[:, None])


def test_what_has_no_gradient_goes_through_no_tile() -> None:
    """No advantage: neither pass. Clipped: not backward. With log-probs asked for: all of forward."""
    assert count(on_policy(), budget_bytes=0) == (3 + 2 + 1, 3 + 2 + 1)
    assert count(clipping(), budget_bytes=0) == (3 + 2 + 1, 1)
    assert count(clipping(), budget_bytes=0, return_logp=True) == (15, 1)


def test_the_aligned_way_makes_every_tile_once_unless_a_sequence_is_too_long() -> None:
    """Tiles of one token and half the vocabulary; a ring of four loses the first token of a sequence of five."""
    whole, four = (ring_of(tokens, V, 6) for tokens in (15, 4))
    assert count(on_policy(), **whole) == (0, 3 + 2 + 1)
    assert count(clipping(), **whole, return_logp=True) == (0, 15)
    longest = replace(clipping(), advantage=torch.tensor([1.0, 1.0, 0.0, 0.0, 2.0], dtype=torch.float64))
    assert count(longest, **four) == (0, 3 + 5 + 1 + 1)


def test_a_sequence_with_one_advantage_among_its_tokens_is_whole_in_forward() -> None:
    values = torch.zeros(5, 5, dtype=torch.float64)
    values[1, 2] = 1.0
    problem = on_policy(objective=GRPO)
    assert count(replace(problem, advantage=PerToken(values)), budget_bytes=0) == (5, 1)
    assert count(replace(problem, advantage=values), budget_bytes=0) == (5, 1)


@pytest.mark.parametrize("tokens", [0, 8], ids=["two-pass", "aligned"])
def test_rubbish_in_what_is_left_out_reaches_nothing(tokens: int) -> None:
    """Chunks of four mix rows with and without weight: no answer changes by a bit, and the gradient there is 0."""
    clean = on_policy()
    skipped = torch.tensor([1, 3])
    with small_pieces():
        answer = answers(clean, **ring_of(tokens, V))
        expected = answer(clean).gradients
        for rubbish in (np.nan, 1e30):
            states = clean.hidden.detach().clone()
            states[skipped] = rubbish
            found = answer(replace(clean, hidden=states.requires_grad_())).gradients
            assert all(torch.equal(g, expected[name]) for name, g in found.items())
            assert not found["hidden"][skipped].any()
            assert found["hidden"][0].any()


@pytest.mark.parametrize("tokens", [0, 4], ids=["two-pass", "aligned"])
def test_there_is_no_array_of_tokens_times_vocabulary(tokens: int) -> None:
    """The largest is the head's gradient; and the search finds the one that naive code makes."""
    problem = make(lengths=(9, 12, 7, 12), vocabulary=90, bias=None).to(torch.float32)
    parameters, rest = arguments(problem)
    states = {"hidden": parameters["hidden"], "lm_head": parameters["lm_head"]}

    def mine(x: dict[str, Any]) -> Any:
        return loss_of(problem, {**parameters, **x}, rest, **ring_of(tokens, 90, 15, 4)).value

    def naive(x: dict[str, Any]) -> Any:
        return jnp.sum(jax.nn.log_softmax(jnp.einsum("nth,vh->ntv", x["hidden"], x["lm_head"])))

    with small_pieces(chunk=4, block=15):
        found = [largest_array(jax.value_and_grad(f), states) for f in (mine, naive)]
    assert found[0] <= 90 * 6 < found[1] / 2
    assert found[1] >= 48 * 90
