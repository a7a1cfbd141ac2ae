"""tinker's data and log-probs belong together: what is missing has its meaning, and what does not fit is refused by name.

The losses through tinker itself are in tests/trainers/tinker.
"""

from __future__ import annotations

import pickle
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gspo_torch.trainers.tinker import custom_loss, token_weights
from torch import Tensor

from gspo_core import GSPO, GSPO_TOKEN, Objective
from gspo_core.objectives import DAPO

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


@pytest.mark.parametrize("objective", [GSPO, DAPO, GSPO_TOKEN], ids=["GSPO", "DAPO", "GSPO_TOKEN"])
def test_a_prompt_that_no_mask_leaves_out_is_refused(objective: Objective) -> None:
    """In tinker's recipes it has zeros, which its sums do not see; the lengths of a loss would count it."""
    whole = {**ROWS[0], "logprobs": ROWS[0]["logprobs"] * ROWS[0]["mask"]}
    bare = {name: x for name, x in whole.items() if name != "mask"}
    assert token_weights(objective, [datum(whole)], LOGPROBS[:1])[0][PROMPT:].any()
    with pytest.raises(ValueError, match=r"^mask: expected one at datum 0, where 2 of 3 tokens have advantage and log-prob 0"):
        token_weights(objective, [datum(bare)], LOGPROBS[:1])


@pytest.mark.parametrize("name", ["logprobs", "advantages"])
def test_data_without_their_numbers_are_refused(name: str) -> None:
    rest = [datum({k: v for k, v in x.items() if k != name}) for x in ROWS]
    with pytest.raises(ValueError, match=rf"^{name}: expected them among the inputs of datum 0, got .*mask"):
        custom_loss(GSPO)(rest, LOGPROBS)


def test_a_mask_of_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^mask: expected zeros and ones at datum 0, got \[0.0, 0.0, 0.5\]"):
        token_weights(GSPO, [datum({**ROWS[0], "mask": ROWS[0]["mask"] * 0.5})], LOGPROBS[:1])


@pytest.mark.parametrize("kind", [torch.int64, torch.float64, torch.bfloat16], ids=str)
def test_advantages_of_any_kind(kind: torch.dtype) -> None:
    """Whole numbers in a list become integers on the way to the server."""
    given = [datum({**x, "advantages": x["advantages"].to(kind)}) for x in ROWS]
    found, expected = (token_weights(GSPO, x, LOGPROBS) for x in (given, [datum(x) for x in ROWS]))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_masked_rubbish_does_not_matter() -> None:
    """NaN and infinities in the prompt's slots; data whose tokens are all masked have the loss 0 and weights of 0."""
    rubbish = [{k: v if k == "mask" else torch.where(x["mask"] > 0, v, torch.nan) for k, v in x.items()} for x in ROWS]
    logprobs = [torch.where(x["mask"] > 0, y, -torch.inf) for x, y in zip(ROWS, LOGPROBS, strict=True)]
    found, expected = token_weights(GSPO, [*map(datum, rubbish)], logprobs), token_weights(GSPO, [*map(datum, ROWS)], LOGPROBS)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    none = [datum({**x, "mask": torch.zeros_like(x["mask"])}) for x in rubbish]
    wanted = [x.clone().requires_grad_() for x in LOGPROBS]
    value, _ = custom_loss(GSPO)(none, wanted)
    value.backward()
    assert float(value.detach()) == 0.0
    assert not any(x.grad.any() for x in wanted)


def test_a_loss_can_be_pickled() -> None:
    """Ray sends it to another process."""
    data = [datum(x) for x in ROWS]
    one, other = custom_loss(GSPO, 3.0), pickle.loads(pickle.dumps(custom_loss(GSPO, 3.0)))
    assert float(one(data, LOGPROBS)[0]) == float(other(data, LOGPROBS)[0]) != 0.0


def test_what_is_no_objective_is_refused() -> None:
    for call in (lambda: custom_loss("GSPO"), lambda: token_weights("GSPO", [datum(x) for x in ROWS], LOGPROBS)):
        with pytest.raises(TypeError, match=r"^objective: expected an Objective such as gspo_core.GSPO, got 'GSPO'"):
            call()
    with pytest.raises(TypeError, match=r"^logprobs: expected torch tensors .* got list at 0"):
        token_weights(GSPO, [datum(x) for x in ROWS], [x.tolist() for x in LOGPROBS])
