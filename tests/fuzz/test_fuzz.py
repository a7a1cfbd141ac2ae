"""100,000 random cases: no wrong value, no raw error, no accepted nonsense. `make fuzz` runs them all, other tests a slice.

A failure names the case: paste it into Python with `tests` on the path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from support.fuzz import bad_arguments, flags, valid_calls
from support.wrong_arguments import named_first, refusal

KINDS: dict[str, tuple[Callable[[int, int], Counter[str]], int]] = {
    "valid calls": (valid_calls.check, 50),
    "bad arguments": (bad_arguments.check, 30),
    "flags": (flags.check, 20),
}
"""How each kind is checked, and its thousands of cases."""
CHUNKS = [(kind, seed) for kind, (_, thousands) in KINDS.items() for seed in range(1, thousands + 1)]


@pytest.mark.fuzz
@pytest.mark.parametrize(("kind", "seed"), CHUNKS, ids=[f"{kind} {seed}" for kind, seed in CHUNKS])
def test_a_thousand_cases(kind: str, seed: int, record_property: Callable[[str, Any], None]) -> None:
    done = KINDS[kind][0](seed, 1000)
    record_property("fuzz", {f"{kind}: {what}": number for what, number in done.items()})


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("valid calls", 100), ("bad arguments", 2000), ("flags", 200)])
def test_a_slice_finds_nothing_and_is_not_vacuous(kind: str, count: int) -> None:
    done = KINDS[kind][0](0, count)
    assert sum(done.values()) >= count
    assert len(done) > 1


@pytest.mark.slow
def test_the_calls_that_are_spoilt_are_valid() -> None:
    for function, arguments in bad_arguments.calls(np.random.default_rng(0)).values():
        function(**arguments)


def test_the_class_of_an_argument_in_its_place_is_refused_by_its_name() -> None:
    """`Padded` for `Padded(mask)`, of every argument of every call; None is no object of a kind."""
    taken = {}
    for name, (function, good) in bad_arguments.calls(np.random.default_rng(0)).items():
        for argument, value in good.items():
            error = refusal(partial(function, **{**good, argument: type(value)}))
            if not named_first(error, {argument}):
                taken[f"{name} {argument}"] = repr(error)
    assert taken == {}


def test_a_wrong_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = valid_calls.core_loss

    def turned(*args: Any, **options: Any) -> Any:
        loss = right(*args, **options)
        return loss._replace(logp_grad=0.0 - loss.logp_grad)

    monkeypatch.setattr(valid_calls, "core_loss", turned)
    with pytest.raises(AssertionError, match=r"check_one\(default_rng\(\[7, \d+\]\)\)"):
        valid_calls.check(7, 20)


def raw(value: Any) -> Any:
    """Fails as an index does."""
    return [1, 2][value]


def careless(value: Any) -> Any:
    """Takes anything."""
    return value


@pytest.mark.parametrize("function", [raw, careless])
def test_raw_errors_and_accepted_nonsense_are_found(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]) -> None:
    monkeypatch.setattr(bad_arguments, "calls", lambda _: {"f": (function, {"value": np.zeros(3)})})
    with pytest.raises(AssertionError, match=r"check_one\(default_rng\(\[7, 0\]\)"):
        bad_arguments.check(7, 20)
