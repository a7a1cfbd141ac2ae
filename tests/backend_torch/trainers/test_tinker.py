"""tinker's data and log-probs belong together: what is missing has its meaning, and what does not fit is refused by name.

The losses through tinker itself are in tests/trainers/tinker.
"""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gspo_torch.trainers.tinker import custom_loss, token_weights
from torch import Tensor

from gspo_core import GSPO

LENGTHS, PROMPT = (3, 5, 4), 2


def row(length: int, seed: int) -> dict[str, Tensor]:
    """Log-probs of the sampler, one advantage, and a mask without the prompt."""
    random = torch.Generator().manual_seed(seed)
    mask = (torch.arange(length) >= PROMPT).float()
    return {"logprobs": -torch.rand(length, generator=random), "advantages": mask * (seed + 1), "mask": mask}


def datum(inputs: dict[str, Tensor]) -> Any:
    """What the adapter reads of tinker's Datum."""
    return SimpleNamespace(loss_fn_inputs={name: SimpleNamespace(to_torch=lambda x=x: x) for name, x in inputs.items()})


ROWS = [row(length, seed) for seed, length in enumerate(LENGTHS)]
LOGPROBS = [x["logprobs"] + 1e-4 for x in ROWS]


@pytest.mark.parametrize("bare", list(product([False, True], repeat=3)), ids=str)
def test_a_datum_without_a_mask_holds_the_policys_tokens_alone(bare: tuple[bool, ...]) -> None:
    """Whichever of the data has none: single-turn data beside those of several turns."""
    whole = [{**x, "advantages": x["advantages"].max().expand(len(x["mask"]))} for x in ROWS]
    given = [{k: v for k, v in x.items() if k != "mask" or not none} for x, none in zip(whole, bare, strict=True)]
    explicit = [{**x, "mask": torch.ones_like(x["mask"]) if none else x["mask"]} for x, none in zip(whole, bare, strict=True)]
    found = token_weights(GSPO, [datum(x) for x in given], LOGPROBS)
    expected = token_weights(GSPO, [datum(x) for x in explicit], LOGPROBS)
    for mine, theirs, none in zip(found, expected, bare, strict=True):
        assert torch.equal(mine, theirs)
        assert bool(mine[:PROMPT].any()) == none, "a prompt has no weight, and an answer has one"
        assert bool(mine[PROMPT:].all())


@pytest.mark.parametrize(
    ("logprobs", "error", "message"),
    [
        (LOGPROBS[::-1], ValueError, r"mask: expected 4 numbers at datum 0, as logprobs has there, got \[3\]"),
        (LOGPROBS[:2], ValueError, r"logprobs: expected a tensor for each of the data, and some data, got 2 for 3"),
        ([torch.cat(LOGPROBS)], ValueError, r"logprobs: expected a tensor for each of the data, .* got 1 for 3"),
        ([x[:, None] for x in LOGPROBS], TypeError, r"logprobs: expected torch tensors .* got shape \[3, 1\] at 0"),
        ([x.tolist() for x in LOGPROBS], TypeError, r"logprobs: expected torch tensors .* got list at 0"),
    ],
    ids=["of other data", "of fewer data", "in one piece", "in columns", "lists"],
)  # fmt: skip
def test_log_probs_of_other_data_are_refused(logprobs: Any, error: type[Exception], message: str) -> None:
    """As many numbers in all as the data have would be a loss of its own: of other tokens' log-probs."""
    data = [datum(x) for x in ROWS]
    with pytest.raises(error, match=f"^{message}"):
        custom_loss(GSPO)(data, logprobs)


@pytest.mark.parametrize("name", ["logprobs", "advantages", "mask"])
def test_inputs_of_another_length_are_refused(name: str) -> None:
    """Two that are wrong by one each have the right length together."""
    first, second, last = ROWS
    data = [datum({**first, name: first[name][:-1]}), datum({**second, name: torch.cat([second[name], second[name][-1:]])})]
    with pytest.raises(ValueError, match=rf"^{name}: expected 3 numbers at datum 0, as logprobs has there, got \[2\]"):
        token_weights(GSPO, [*data, datum(last)], LOGPROBS)


def test_no_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^logprobs: expected a tensor for each of the data, and some data, got 0 for 0"):
        token_weights(GSPO, [], [])
