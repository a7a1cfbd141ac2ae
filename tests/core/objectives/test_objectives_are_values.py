"""An objective is a value: frozen, hashable, comparable, replaceable; impossible ones cannot be built."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest
from support.libraries import Library

from gspo_core import (
    GRPO,
    GSPO,
    GSPO_TOKEN,
    Clip,
    Objective,
    Padded,
    Sequence,
    SequenceMean,
    SequenceToken,
    Token,
    TokenMean,
    policy_loss,
)
from gspo_core.advantages import BestOfGroup, Centred, LeaveOneOut, ZScore
from gspo_core.objectives import (
    PRESETS,
    Band,
    BandWeight,
    BinaryKL,
    DualClip,
    FixedLength,
    GammaWeight,
    GateOnly,
    LogGain,
    OffPolicyMask,
    Product,
    ProductToken,
    ReciprocalWeight,
    SoftGate,
    TaperedWeight,
    TokenClip,
    TotalVariation,
    TruncatedWeight,
    Unclipped,
)

VALUES: list[Callable[[], Any]] = [
    lambda: Objective(Sequence(), Clip(3e-4, 4e-4), SequenceMean()),
    lambda: Clip(0.2, 0.3),
    Sequence,
    SequenceToken,
    Token,
    SequenceMean,
    TokenMean,
    Product,
    ProductToken,
    Unclipped,
    lambda: DualClip(0.2, 0.3, 3.0),
    lambda: GateOnly(0.2, 0.3),
    lambda: SoftGate(1.0, 2.0),
    lambda: TruncatedWeight(5.0, 0.5),
    lambda: ReciprocalWeight(0.2, 0.3, 3.0),
    lambda: GammaWeight(1.0, 2.0, 3.0, 4.0),
    lambda: BandWeight(0.5, 5.0),
    lambda: TaperedWeight(2.0),
    lambda: LogGain(0.5),
    lambda: FixedLength(7),
    lambda: TokenClip(0.4, 0.3),
    lambda: Band(0.1, 0.5),
    lambda: OffPolicyMask(0.5),
    lambda: TotalVariation(0.1, 0.2),
    lambda: BinaryKL(0.1, 0.2),
    lambda: ZScore(1, 1e-4),
    Centred,
    LeaveOneOut,
    BestOfGroup,
]


@pytest.mark.parametrize("make", VALUES, ids=[repr(make()) for make in VALUES])
def test_equal_by_value_hashable_and_readable(make: Callable[[], Any]) -> None:
    assert make() == make()
    assert hash(make()) == hash(make())
    assert eval(repr(make())) == make()


@pytest.mark.parametrize("make", VALUES, ids=[repr(make()) for make in VALUES])
def test_frozen(make: Callable[[], Any]) -> None:
    value = make()
    for name in [field.name for field in fields(value)] or ["anything"]:
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 1)


def test_the_presets_are_three_different_values() -> None:
    assert len({GSPO, GSPO_TOKEN, GRPO}) == 3
    assert Objective(Sequence(), Clip(3e-4, 4e-4), SequenceMean()) == GSPO
    assert Clip(0.2, 0.3) != Clip(0.3, 0.2)


def test_one_choice_can_be_replaced(library: Library) -> None:
    """A variant is another with one value changed, and it behaves so: s = 1.1 is clipped by GSPO's band only."""
    wide = GSPO.with_clip(0.2, 0.3)
    assert (wide.ratio, wide.reduction, wide.surrogate) == (GSPO.ratio, GSPO.reduction, Clip(0.2, 0.3))
    arrays = [library.array(x) for x in (np.log([[1.1]]), np.zeros((1, 1)), np.ones(1))]
    layout = Padded(library.array(np.ones((1, 1), dtype=bool)))
    clipped = [bool(policy_loss(objective, *arrays, layout).clipped[0]) for objective in (GSPO, wide)]
    assert clipped == [True, False]


CLIPPED = {name: value for name, value in PRESETS.items() if {"low", "high"} <= {f.name for f in fields(value.surrogate)}}


@pytest.mark.parametrize("objective", [*CLIPPED.values(), replace(GSPO, surrogate=DualClip(0.2, 0.2, 3.0))], ids=str)
def test_with_clip_changes_the_two_widths_and_nothing_else(objective: Objective) -> None:
    found, surrogate = objective.with_clip(0.0125, 0.25), objective.surrogate
    assert found == replace(objective, surrogate=replace(surrogate, low=0.0125, high=0.25))
    assert found != objective
    assert type(found.surrogate) is type(surrogate)
    assert found.with_clip(surrogate.low, surrogate.high) == objective


def test_the_presets_have_three_kinds_of_clipped_surrogates() -> None:
    assert {type(value.surrogate) for value in CLIPPED.values()} >= {Clip, GateOnly, ReciprocalWeight}


@pytest.mark.parametrize("objective", [value for name, value in PRESETS.items() if name not in CLIPPED], ids=str)
def test_with_clip_needs_a_surrogate_that_has_a_range(objective: Objective) -> None:
    """GMPO's bounds per token, in nats, are its gate's."""
    with pytest.raises(
        TypeError, match=rf"^surrogate: expected one with a clip range, got {re.escape(str(objective.surrogate))}. Replace it"
    ):
        objective.with_clip(0.2, 0.2)


def test_with_clip_checks_its_widths_as_the_surrogate_does() -> None:
    with pytest.raises(ValueError, match=r"^low: expected a clip width in \[0, 1\), got 1\.5"):
        GSPO.with_clip(1.5, 0.2)
    with pytest.raises(TypeError, match=r"^high: expected a number, got None"):
        GSPO.with_clip(0.2, None)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(("name", "kind"), [("ratio", Token), ("surrogate", Clip), ("reduction", SequenceMean)])
def test_a_class_in_place_of_a_value_is_refused(name: str, kind: type) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: expected a value, got the class {kind.__name__}; write {kind.__name__}\("):
        replace(GRPO, **{name: kind})


def test_a_sequence_ratio_has_no_mean_over_tokens() -> None:
    with pytest.raises(TypeError, match=r"^reduction: TokenMean\(\) .* Use SequenceMean\(\) .* or SequenceToken\(\)"):
        Objective(Sequence(), Clip(0.2, 0.2), TokenMean())
    with pytest.raises(TypeError, match=r"^reduction: TokenMean\(\)"):
        replace(GSPO, reduction=TokenMean())
    with pytest.raises(TypeError, match=r"^reduction: TokenMean\(\)"):
        replace(GSPO_TOKEN, reduction=TokenMean(), ratio=Sequence())


def test_a_mean_over_tokens_refuses_sequence_units_by_itself(library: Library) -> None:
    layout = Padded(library.array(np.ones((1, 1), dtype=bool)))
    with pytest.raises(ValueError, match=r"^per_token: TokenMean\(\) expected a ratio whose units are tokens"):
        TokenMean().weights(layout, False, library.array(np.asarray(1.0)))


@pytest.mark.parametrize("low", [1.0, -1e-9, 1.5, float("nan"), float("inf")])
def test_low_is_a_width_below_one(low: float) -> None:
    with pytest.raises(ValueError, match=r"^low: expected a clip width in \[0, 1\), got "):
        Clip(low, 0.2)


@pytest.mark.parametrize("high", [-1e-9, float("nan"), float("inf")])
def test_high_is_a_finite_width(high: float) -> None:
    with pytest.raises(ValueError, match=r"^high: expected a finite clip width of at least 0, got "):
        Clip(0.2, high)


@pytest.mark.parametrize("ddof", [-1, 2, 0.5])
def test_ddof_is_zero_or_one(ddof: Any) -> None:
    with pytest.raises(ValueError, match=r"^ddof: expected a whole number of at least 0 and at most 1, got "):
        ZScore(ddof=ddof)


@pytest.mark.parametrize("eps", [-1e-9, float("nan"), float("inf")])
def test_eps_is_finite_and_not_negative(eps: float) -> None:
    with pytest.raises(ValueError, match=r"^eps: expected a finite number of at least 0, got "):
        ZScore(eps=eps)
