"""Turn-level losses are the same in every layout that holds the same turns, and a wrong one is refused by name."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import REL64, assert_close64, assert_same_bits, assert_within
from support.inputs.dialogues import REDUCTIONS, Dialogues, dialogues, loss_of
from support.libraries import NUMPY, TORCH, Library
from support.ranks import on_all_ranks

from gspo_core import (
    GSPO,
    GSPO_TOKEN,
    Clip,
    Loss,
    Objective,
    Packed,
    Padded,
    PerToken,
    Sequence,
    SequenceMean,
    Token,
    TokenMean,
    Turns,
    batch_metrics,
    kl_penalty,
    policy_loss,
    sampler_weight,
    sharded,
    summary,
)
from gspo_core.kl import K3
from gspo_core.layouts import Restricted
from gspo_core.mismatch import Correction, Reject, TokenWeight
from gspo_core.objectives import Turn, TurnMean, TurnToken

FORMS = pytest.mark.parametrize("token_form", [False, True], ids=["Turn", "TurnToken"])


def numpy_loss(library: Library, objective: Objective, arrays: list[np.ndarray], advantage: Any, layout: Any) -> Loss:
    """The loss on any layout, as NumPy arrays."""
    loss = policy_loss(objective, *(library.array(x) for x in arrays), advantage, layout)
    return Loss(*(library.numpy(x) for x in loss[:-1]), loss.on_policy)


@FORMS
@given(dialogue=dialogues(), name=st.sampled_from(sorted(REDUCTIONS)), seed=st.integers(0, 99))
def test_packed_is_padded(library: Library, token_form: bool, dialogue: Dialogues, name: str, seed: int) -> None:
    """Tokens in any order."""
    assume(dialogue.distance_to_kinks() > 1e-9)
    b, objective = dialogue.batch, dialogue.objective(name, token_form)
    advantage = b.token_advantage if token_form else dialogue.turn_advantage
    padded = loss_of(library, objective, b, advantage, dialogue.layout(library))
    order = np.random.default_rng(seed).permutation(b.mask.size)
    ids = np.where(b.mask, np.arange(len(b.mask))[:, None], -1).reshape(-1)[order]
    packed = Packed(library.array(ids), len(b.mask))
    layout = Turns(packed, library.array(dialogue.ids.reshape(-1)[order]), dialogue.num_turns)
    given_advantage = library.array(advantage.reshape(-1)[order] if token_form else advantage)
    arrays = [x.reshape(-1)[order] for x in (b.logp, b.old_logp)]
    loss = numpy_loss(library, objective, arrays, PerToken(given_advantage) if token_form else given_advantage, layout)
    size = np.max(np.abs(b.clean().logp - b.clean().old_logp), initial=0.0)
    assert_close64(
        loss.value, padded.value, dialogue.judged(name, advantage if token_form else dialogue.spread_advantage).scale
    )
    expected = padded.logp_grad.reshape(-1)[order]
    assert_within(loss.logp_grad, expected, REL64 * np.abs(expected) * (1 + size))
    if not token_form:
        assert_within(loss.log_ratio, padded.log_ratio, REL64 * size)
        assert loss.clipped.tolist() == padded.clipped.tolist()


@FORMS
@pytest.mark.parametrize("turns_outside", [True, False], ids=["Turns(sharded)", "sharded(Turns)"])
@given(dialogue=dialogues(), name=st.sampled_from(sorted(REDUCTIONS)), cuts=st.lists(st.integers(0, 9), max_size=2))
def test_the_parts_of_a_sharded_dialogue_are_the_whole(
    turns_outside: bool, token_form: bool, dialogue: Dialogues, name: str, cuts: list[int]
) -> None:
    """A turn may be cut anywhere, whichever way round the layouts stand."""
    assume(dialogue.distance_to_kinks() > 1e-9)
    b, objective = dialogue.batch, dialogue.objective(name, token_form)
    advantage = b.token_advantage if token_form else dialogue.turn_advantage
    whole = loss_of(NUMPY, objective, b, advantage, dialogue.layout(NUMPY))
    width = b.mask.shape[1]
    bounds = [0, *sorted(min(cut, width) for cut in cuts), width]
    columns = [slice(a, z) for a, z in itertools.pairwise(bounds)]

    def one_rank(mine: slice, reduce: Callable[[Any], Any]) -> Loss:
        part, ids = Padded(b.mask[:, mine]), dialogue.ids[:, mine]
        if turns_outside:
            layout: Any = Turns(sharded(part, reduce), ids, dialogue.num_turns)
        else:
            layout = sharded(Turns(part, ids, dialogue.num_turns), reduce)
        given_advantage = advantage[:, mine] if token_form else advantage
        arrays = [x[:, mine] for x in (b.logp, b.old_logp)]
        return numpy_loss(NUMPY, objective, arrays, PerToken(given_advantage) if token_form else given_advantage, layout)

    size = np.max(np.abs(b.clean().logp - b.clean().old_logp), initial=0.0)
    scale = dialogue.judged(name, advantage if token_form else dialogue.spread_advantage).scale
    losses, _ = on_all_ranks([functools.partial(one_rank, mine) for mine in columns])
    for mine, loss in zip(columns, losses, strict=True):
        expected = whole.logp_grad[:, mine]
        assert_close64(loss.value, whole.value, scale)
        assert_within(loss.logp_grad, expected, REL64 * np.abs(expected) * (1 + size))
        assert loss.denominator == whole.denominator
        if not token_form:
            assert loss.clipped.tolist() == whole.clipped.tolist()


def test_turns_are_exchanged_in_one_piece() -> None:
    """N lengths and N · K of the turns once per layout, N · K log ratios per loss; whatever K is."""

    def one_rank(total: Callable[[Any], Any]) -> None:
        layout = Turns(Padded(np.ones((3, 10), dtype=bool)), np.zeros((3, 10), dtype=int), 5)
        objective = Objective(Turn(), Clip(0.2, 0.2), TurnMean())
        policy_loss(objective, np.zeros((3, 10)), np.zeros((3, 10)), np.ones(3), sharded(layout, total))

    _, sums = on_all_ranks([one_rank, one_rank])
    assert sorted(parts[0].shape for parts in sums) == [(3,), (15,), (15,)]


@given(dialogue=dialogues(), seed=st.integers(0, 99))
def test_a_dialogue_without_its_rejected_tokens_keeps_its_turns(library: Library, dialogue: Dialogues, seed: int) -> None:
    """Restricted(Turns) and Turns(Restricted) are the turns of the mask that is left."""
    b = dialogue.batch
    kept = np.random.default_rng(seed).random(b.mask.shape) < 0.7
    objective = dialogue.objective("TurnMean")
    ids, k = library.array(dialogue.ids), library.array(kept)
    expected = loss_of(
        library, objective, b, dialogue.turn_advantage, Turns(Padded(library.array(b.mask & kept)), ids, dialogue.num_turns)
    )
    whole = Padded(library.array(b.mask))
    for layout in (
        Restricted(Turns(whole, ids, dialogue.num_turns), k),
        Turns(Restricted(whole, k), ids, dialogue.num_turns),
    ):
        loss = loss_of(library, objective, b, dialogue.turn_advantage, layout)
        for one, two in zip(loss[:-1], expected[:-1], strict=True):
            assert_same_bits(one, two)


def test_what_a_sampler_correction_drops_leaves_its_turn() -> None:
    layout = Turns(Padded(np.ones((1, 4), dtype=bool)), np.array([[0, 0, 1, 1]]), 2)
    old, sampler = np.zeros((1, 4)), np.array([[0.0, -9.0, 0.0, 0.0]])
    w = sampler_weight(Correction(TokenWeight(), Reject(0.5, 2.0, drop=True)), old, sampler, layout)
    loss = policy_loss(Objective(Turn(), Clip(0.2, 0.2), TurnMean()), old, old, np.array([[1.0, 1.0]]), w.layout)
    assert loss.logp_grad.tolist() == [[-0.5, 0.0, -0.25, -0.25]]


def test_whatever_has_no_word_about_turns_does_not_notice_them() -> None:
    """Counts, sequence objectives and KL terms in a layout with turns are those without."""
    rng = np.random.default_rng(0)
    padded = Padded(rng.random((4, 6)) > 0.3)
    layout = Turns(padded, rng.integers(0, 3, (4, 6)), 3)
    logp, old, advantage = rng.normal(size=(4, 6)), rng.normal(size=(4, 6)), rng.normal(size=4)
    for objective in (GSPO, GSPO_TOKEN):
        for one, two in zip(*(policy_loss(objective, logp, old, advantage, x)[:-1] for x in (layout, padded)), strict=True):
            assert_same_bits(one, two)
    for one, two in zip(*(kl_penalty(K3(), logp, old, x, reduction=TokenMean())[:2] for x in (layout, padded)), strict=True):
        assert_same_bits(one, two)
    assert int(TurnMean().count(layout)) == int(SequenceMean().count(padded)) == 4


MASK, IDS, ZEROS = np.ones((2, 3), dtype=bool), np.zeros((2, 3), dtype=int), np.zeros((2, 3))


@pytest.mark.parametrize(
    ("objective", "who"),
    [
        (Objective(Turn(), Clip(0.2, 0.2), TurnMean()), "Turn()"),
        (Objective(TurnToken(), Clip(0.2, 0.2), SequenceMean()), "TurnToken()"),
        (Objective(Token(), Clip(0.2, 0.2), TurnMean()), "TurnMean()"),
    ],
    ids=["Turn", "TurnToken", "TurnMean"],
)
@pytest.mark.parametrize("layout", [Padded(MASK), sharded(Padded(MASK), lambda x: x), Restricted(Padded(MASK), MASK)])
def test_whoever_needs_turns_says_so(objective: Objective, who: str, layout: Any) -> None:
    """By name, and with the fix, whatever the layout is wrapped in."""
    with pytest.raises(TypeError, match=rf"^layout: {re.escape(who)} needs a layout that knows its turns; wrap yours: Turns\("):
        policy_loss(objective, ZEROS, ZEROS, np.ones(2), layout)


def test_turns_are_checked_at_the_door() -> None:
    with pytest.raises(TypeError, match=r"^layout: expected an array of one library with turn_ids \(torch.Tensor\), got numpy"):
        Turns(Padded(MASK), TORCH.array(IDS), 2)
    with pytest.raises(ValueError, match=r"^advantage: Turn\(\) .*, got PerToken \[2, 3\]"):
        policy_loss(Objective(Turn(), Clip(0.2, 0.2), TurnMean()), ZEROS, ZEROS, PerToken(ZEROS), Turns(Padded(MASK), IDS, 4))


def test_metrics_count_turn_level_clipping_at_the_turns_tokens() -> None:
    """A dialogue of two turns, one clipped: half of its tokens, and not the sequence. With one turn, GSPO's numbers."""
    logp, old = np.array([[0.5, 0.5, -0.01, -0.01]]), np.zeros((1, 4))
    objective = Objective(Turn(), Clip(0.2, 0.2), TurnMean())
    for ids, advantage, active, tokens in (([0, 0, 1, 1], [1.0, 1.0], 0.0, 0.5), ([0, 0, 0, 0], [1.0, np.nan], 1.0, 1.0)):
        layout = Turns(Padded(old == 0), np.array([ids]), 2)
        batch = (logp, old, np.array([advantage]), layout)
        numbers = summary(batch_metrics(objective, policy_loss(objective, *batch), *batch))
        assert (numbers["clip_active"], numbers["clip_active_tokens"]) == (active, tokens)
    sequence = (logp, old, np.array([1.0]), layout.layout)
    gspo = Objective(Sequence(), Clip(0.2, 0.2), SequenceMean())
    assert numbers == summary(batch_metrics(gspo, policy_loss(gspo, *sequence), *sequence))
