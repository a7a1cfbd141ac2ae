"""Advantages of responses out of those of tokens, padded and packed, and a trainer's clip range."""

from __future__ import annotations

import doctest
import importlib
import math

import pytest
import torch
from gspo_torch.trainers.responses import advantage_for, whole_step, with_range

from gspo_core import GSPO, GSPO_TOKEN, Objective, Packed, Padded, PerToken
from gspo_core.objectives import CISPO

MASK = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 1]]) > 0
TOKENS = torch.tensor([[-0.1, -0.1, 9.0], [9.0, 9.0, 9.0], [9.0, 0.7, 0.7]])
IDS = torch.where(MASK, torch.arange(3)[:, None], -1)


@pytest.mark.parametrize("packed", [False, True])
def test_the_number_that_all_tokens_of_a_response_have(packed: bool) -> None:
    """To the bit; 0 of an empty one. With one that differs by a rounding error, refused."""
    layout = Packed(IDS.reshape(-1), 3) if packed else Padded(MASK)
    tokens = TOKENS.reshape(layout.shape)
    found = advantage_for(GSPO, tokens, layout)
    assert torch.equal(found, torch.tensor([-0.1, 0.0, 0.7]))
    other = tokens.clone().reshape(-1)
    other[8] = torch.nextafter(other[8], torch.tensor(1.0))
    with pytest.raises(ValueError, match="advantages: expected one number per response"):
        advantage_for(GSPO, other.reshape(layout.shape), layout)


def test_a_ratio_of_tokens_takes_them_as_they_are() -> None:
    found = advantage_for(GSPO_TOKEN, TOKENS, Padded(MASK))
    assert isinstance(found, PerToken)
    assert found.values is TOKENS


@pytest.mark.parametrize("objective", [GSPO, GSPO_TOKEN], ids=["of responses", "of tokens"])
@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3), (3, 4), (9,)], ids=str)
def test_advantages_of_another_shape_are_refused(objective: Objective, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^advantages: expected one for each token, \[3, 3\], got \["):
        advantage_for(objective, torch.ones(shape), Padded(MASK))


def test_a_range_that_an_objective_does_not_have_is_refused() -> None:
    assert with_range(GSPO, 0.1, 0.3, "eps") == GSPO.with_clip(0.1, 0.3)
    assert with_range(CISPO, 0.2, 0.2, "eps") is CISPO
    with pytest.raises(ValueError, match=r"^eps: expected the default 0.2, since TruncatedWeight"):
        with_range(CISPO, 0.2, 0.3, "eps")


@pytest.mark.parametrize("module", ["gspo_torch.trainers.responses"])
def test_the_examples_run(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert (failed, attempted > 0) == (0, True)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.int64], ids=str)
def test_advantages_of_any_kind_keep_it(kind: torch.dtype) -> None:
    found = advantage_for(GSPO, (10 * TOKENS).round().to(kind), Padded(MASK))
    assert torch.equal(found, torch.tensor([-1.0, 0.0, 7.0]).to(kind))


def test_rubbish_in_masked_slots_is_not_read() -> None:
    """Nor in rows without a token; a NaN of the response's own stays."""
    for rubbish in (torch.nan, torch.inf, -torch.inf):
        found = advantage_for(GSPO, torch.where(MASK, TOKENS, rubbish), Padded(MASK))
        assert torch.equal(found, torch.tensor([-0.1, 0.0, 0.7]))
    one = TOKENS.clone()
    one[2, 1] = torch.nan
    assert advantage_for(GSPO, one, Padded(MASK)).isnan().tolist() == [False, False, True]


def test_a_step_without_a_token_has_no_denominator() -> None:
    assert whole_step(torch.tensor(6.0), 2) == 3.0
    assert [whole_step(x, 2) for x in (None, 0, 0.0, torch.zeros(()))] == [None] * 4
    assert torch.tensor(whole_step(math.nan)).isnan()
