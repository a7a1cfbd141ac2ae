"""A wrong argument is refused with a sentence that names it and says what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch
from support.budgets import assert_close64
from support.cases import Case
from support.libraries import LIBRARIES, NUMPY, STRICT, TORCH, Library

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Padded, TokenMean, group_advantages, policy_loss

N, T = 2, 3


def good(library: Library) -> dict[str, Any]:
    """Arguments that are accepted."""
    return {
        "logp": library.array(np.zeros((N, T))),
        "old_logp": library.array(np.zeros((N, T))),
        "advantage": library.array(np.ones(N)),
        "mask": library.array(np.ones((N, T), dtype=bool)),
    }


def call(objective: Any, library: Library, **wrong: Any) -> Any:
    """The core on good arguments with some replaced."""
    arguments = {**good(library), **wrong}
    mask = arguments.pop("mask")
    return policy_loss(objective, layout=Padded(mask), **arguments)


@pytest.mark.parametrize("total", [4, 4.0, np.asarray(4), np.asarray(4.0)], ids=["int", "float", "integer array", "array"])
def test_a_denominator_is_any_number(library: Library, case: Case, total: Any) -> None:
    """That parts add up under it is a law (gspo_core/laws/chapters/averages/micro_batches.py); here is what may be given."""
    denominator = library.array(total) if isinstance(total, np.ndarray) else total
    loss = call(case.preset, library, denominator=denominator)
    assert_close64(library.numpy(loss.value), -0.5)
    assert float(library.numpy(loss.denominator)) == 4.0


def test_what_is_counted(library: Library) -> None:
    """Non-empty sequences, or tokens; by hand."""
    mask = np.array([[True, False, True], [False, False, False], [False, True, False]])
    over_tokens = [replace(preset, reduction=TokenMean()) for preset in (GSPO_TOKEN, GRPO)]
    layout = Padded(library.array(mask))
    assert [int(o.count(layout)) for o in (GSPO, GSPO_TOKEN, GRPO, *over_tokens)] == [2, 2, 2, 3, 3]


def test_the_good_arguments_are_good(library: Library, case: Case) -> None:
    assert_close64(library.numpy(call(case.preset, library).value), -1.0)


@pytest.mark.parametrize("name", ["logp", "old_logp", "advantage"])
@pytest.mark.parametrize("wrong", [[[0.0] * T] * N, 0.0, "text"], ids=["list", "number", "text"])
def test_what_is_no_array_is_named(library: Library, case: Case, name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: expected an array, got {type(wrong).__name__}"):
        call(case.preset, library, **{name: wrong})


def test_a_bare_mask_is_no_layout(library: Library, case: Case) -> None:
    arguments = good(library)
    mask = arguments.pop("mask")
    with pytest.raises(TypeError, match=r"^layout: expected a layout such as Padded\(mask\), got "):
        policy_loss(case.preset, layout=mask, **arguments)


def test_a_name_is_no_objective(library: Library) -> None:
    with pytest.raises(TypeError, match=r"^objective: expected an Objective such as GSPO, got str"):
        call("gspo", library)


@pytest.mark.parametrize("wrong", [[[True]], None, 1], ids=["list", "None", "number"])
def test_a_mask_that_is_no_array_is_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"^mask: expected an array, got {type(wrong).__name__}"):
        Padded(wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_a_mask_of_numbers_is_refused_with_the_fix(library: Library, dtype: type) -> None:
    with pytest.raises(TypeError, match=r"^mask: expected a boolean array, got dtype .*; write mask > 0"):
        Padded(library.array(np.ones((N, T), dtype=dtype)))


@pytest.mark.parametrize("shape", [(), (T,), (N, T, 1)])
def test_a_mask_has_two_axes(library: Library, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^mask: expected shape \[N, T\], got "):
        Padded(library.array(np.ones(shape, dtype=bool)))


@pytest.mark.parametrize("name", ["logp", "old_logp"])
@pytest.mark.parametrize("shape", [(N,), (N, T + 1), (T, N), (1, T), (N, 1), (N, T, 1), ()])
def test_log_probs_have_the_layouts_shape(library: Library, case: Case, name: str, shape: tuple[int, ...]) -> None:
    """Broadcastable shapes too: [N, 1] is a mistake, not a shorthand."""
    with pytest.raises(ValueError, match=rf"^{name}: expected the layout's shape \[2, 3\], got "):
        call(case.preset, library, **{name: library.array(np.zeros(shape))})


@pytest.mark.parametrize("name", ["logp", "old_logp"])
@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex128])
def test_log_probs_are_real_floating(library: Library, case: Case, name: str, dtype: type) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: expected real floating-point log-probs, got dtype "):
        call(case.preset, library, **{name: library.array(np.zeros((N, T), dtype=dtype))})


@pytest.mark.parametrize("dtype", [np.bool_, np.complex128])
def test_advantages_are_real(library: Library, case: Case, dtype: type) -> None:
    with pytest.raises(TypeError, match=r"^advantage: expected real numbers, got dtype "):
        call(case.preset, library, advantage=library.array(np.ones(N, dtype=dtype)))


@pytest.mark.parametrize("shape", [(), (T,), (N, 1), (1, T), (N, T, 1), (N + 1,)])
def test_advantages_are_per_sequence_or_per_token(library: Library, case: Case, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"^advantage: expected \[2\] \(one per sequence\) or \[2, 3\] \(one per token\), got "
    ):
        call(case.preset, library, advantage=library.array(np.ones(shape)))


def test_gspo_refuses_advantages_per_token_and_names_gspo_token(library: Library) -> None:
    advantage = library.array(np.ones((N, T)))
    with pytest.raises(
        ValueError, match=r"^advantage: Sequence\(\) has one ratio per sequence .* Use SequenceToken\(\) \(GSPO_TOKEN"
    ):
        call(GSPO, library, advantage=advantage)
    for objective in (GSPO_TOKEN, GRPO):
        assert_close64(library.numpy(call(objective, library, advantage=advantage).value), -1.0)


def test_missing_old_log_probs_must_be_said_to_be_meant(library: Library, case: Case) -> None:
    with pytest.raises(ValueError, match=r"^old_logp: .* old_logp=None together with on_policy=True"):
        call(case.preset, library, old_logp=None)
    with pytest.raises(ValueError, match=r"^old_logp: .*\(got old_logp=an array, on_policy=True\)"):
        call(case.preset, library, on_policy=True)


@pytest.mark.parametrize("wrong", [0, -1, 0.0, -2.5, float("nan"), float("inf")])
def test_a_denominator_is_positive_and_finite(library: Library, case: Case, wrong: float) -> None:
    with pytest.raises(ValueError, match=r"^denominator: expected a positive finite number, got "):
        call(case.preset, library, denominator=wrong)


@pytest.mark.parametrize("shape", [(1,), (N,), (N, T)])
def test_a_denominator_is_one_number(library: Library, case: Case, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^denominator: expected a number or a \[\] array, got shape "):
        call(case.preset, library, denominator=library.array(np.ones(shape)))


@pytest.mark.parametrize("wrong", ["2", [2]], ids=["text", "list"])
def test_a_denominator_is_a_number_or_an_array(library: Library, case: Case, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^denominator: expected a number, got "):
        call(case.preset, library, denominator=wrong)


def mixed_pairs() -> list[tuple[Library, Library]]:
    """Every ordered pair of different libraries."""
    return [(a, b) for a in LIBRARIES for b in LIBRARIES if a is not b]


@pytest.mark.parametrize("pair", mixed_pairs(), ids=lambda pair: f"{pair[0].name} and {pair[1].name}")
@pytest.mark.parametrize("name", ["logp", "old_logp", "advantage", "mask"])
def test_arrays_of_two_libraries_are_refused_by_name(case: Case, pair: tuple[Library, Library], name: str) -> None:
    """All but a denominator: a [] array is a number, whichever library it is of (tests/core/test_numbers.py)."""
    ours, theirs = pair
    with pytest.raises(TypeError, match=rf"^{'layout' if name == 'mask' else name}: expected an array of one library with "):
        call(case.preset, ours, **{name: good(theirs)[name]})


INTS, STRICT_INTS = np.zeros(1, dtype=np.int64), array_api_strict.zeros(1, dtype=array_api_strict.int64)
WRONG_REWARDS: list[tuple[type, str, Any, Any]] = [
    (TypeError, r"^rewards: expected an array, got str", "text", INTS),
    (TypeError, r"^group_ids: expected an array, got int", np.ones(1), 0),
    (TypeError, r"^rewards: expected real numbers, got dtype bool", np.ones(1, bool), INTS),
    (TypeError, r"^rewards: expected real numbers, got dtype complex", np.ones(1, complex), INTS),
    (TypeError, r"^group_ids: expected integers, got dtype float", np.ones(1), np.zeros(1)),
    (TypeError, r"^group_ids: expected integers, got dtype bool", np.ones(1), np.zeros(1, bool)),
    (ValueError, r"^rewards: expected shape \[N\], got \[1, 1\]", np.ones((1, 1)), INTS[None, :]),
    (ValueError, r"^rewards: expected shape \[N\], got \[\]", np.ones(()), INTS[0]),
    (ValueError, r"^group_ids: expected shape \[3\] as rewards, got \[1\]", np.ones(3), INTS),
    (TypeError, r"^group_ids: expected an array of one library with rewards \(torch.Tensor\)", torch.ones(1), INTS),
    (TypeError, r"^group_ids: expected an array .*, got torch", [1.0], torch.tensor([0])),
    (TypeError, r"^group_ids: expected an array .*, got array_api_strict", np.ones(1), STRICT_INTS),
]


@pytest.mark.parametrize(("kind", "sentence", "rewards", "ids"), WRONG_REWARDS, ids=[r[1][1:45] for r in WRONG_REWARDS])
def test_wrong_rewards_and_ids_are_named(kind: type[Exception], sentence: str, rewards: Any, ids: Any) -> None:
    with pytest.raises(kind, match=sentence):
        group_advantages(rewards, ids)


def test_the_table_of_libraries_is_complete() -> None:
    """The pairs above mean something only while these are three."""
    assert [NUMPY, STRICT, TORCH] == LIBRARIES
