"""Each situation that people ask about gives exactly the right finding, and a healthy run gives none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from support.inputs.metric_cases import on_layout
from support.libraries import Library

from gspo_core import (
    GRPO,
    GSPO,
    GSPO_TOKEN,
    TIS,
    Objective,
    Padded,
    TokenMean,
    batch_metrics,
    diagnose,
    group_metrics,
    merge,
    policy_loss,
    sampler_weight,
    summary,
)
from gspo_core.metrics import FindingKind, Metrics, Thresholds, sampler_metrics
from gspo_core.mismatch import MIS, Correction, Mask, ProductWeight

N, T = 64, 1000
GROUPS = np.arange(N) // 8
FULL = np.ones((N, T), dtype=bool)


def centred(seed: int = 0) -> np.ndarray:
    """Advantages whose sum is exactly 0."""
    half = np.abs(np.random.default_rng(seed).normal(size=N // 2)) + 0.1
    return np.stack([half, -half], axis=1).reshape(-1)


def ratios(scale: float, seed: int = 0) -> np.ndarray:
    """Token log ratios of independent noise, so that log s has the standard deviation scale / √T."""
    return scale * np.random.default_rng(seed).normal(size=(N, T))


def batch(d: np.ndarray, advantage: np.ndarray, mask: np.ndarray = FULL, objective: Objective = GSPO) -> Metrics:
    """Metrics of a batch, its groups included."""
    old = np.full(d.shape, -1.0)
    return merge(on_layout(objective, old + d, old, advantage, Padded(mask)), group_metrics(advantage, GROUPS[: len(d)]))


def on_policy_window() -> Metrics:
    """Four updates without old log-probs."""
    logp, layout = np.full((N, T), -1.0), Padded(FULL)
    loss = policy_loss(GSPO, logp, None, centred(), layout, on_policy=True)
    return merge(*[batch_metrics(GSPO, loss, logp, None, centred(), layout)] * 4)


def sampler(x: np.ndarray) -> Metrics:
    """Of old_logp − sampler_logp = x, at tokens."""
    return sampler_metrics(TIS, x, np.zeros_like(x), Padded(np.ones(x.shape, dtype=bool)))


def corrected(correction: Correction, gap: np.ndarray, advantage: np.ndarray, groups: bool = True) -> Metrics:
    """A batch on policy whose advantages were weighed for a sampler that is `gap` nats below the trainer at each token."""
    old = np.full((N, T), -1.0)
    w = sampler_weight(correction, old, old - gap, Padded(FULL))
    parts = [
        on_layout(GSPO, old, old, advantage * w.weight, w.layout),
        sampler_metrics(correction, old, old - gap, Padded(FULL)),
    ]
    return merge(*parts, *([group_metrics(advantage, GROUPS)] if groups else []))


def ragged() -> np.ndarray:
    """Lengths from 50 to 1000."""
    return np.arange(T)[None, :] < np.linspace(50, 1000, N).astype(int)[:, None]


@dataclass(frozen=True)
class Situation:
    """What happened, and what must be said about it."""

    name: str
    metrics: Callable[[], Metrics]
    found: tuple[FindingKind, ...]
    gradient_is_zero: bool | None = None
    objective: Objective | None = GSPO
    says: str = ""


TOKEN_MEAN = replace(GSPO_TOKEN, reduction=TokenMean())
FITTING = 0.008  # log s of ± 2.5e-4 at 1000 tokens: inside the paper's range
SITUATIONS = [
    Situation("healthy", lambda: batch(ratios(FITTING), centred()), ()),
    Situation(
        "on policy and centred", lambda: batch(ratios(0), centred()), (FindingKind.ON_POLICY_CENTRED,), False, says="not 0"
    ),
    Situation(
        "all groups constant", lambda: batch(ratios(FITTING), np.zeros(N)), (FindingKind.CONSTANT_GROUPS,), True, says="100%"
    ),
    Situation(
        "no advantage for a reason that was not measured",
        lambda: on_layout(GSPO, FULL - 2.0, FULL - 2.0, np.zeros(N), Padded(FULL)),
        (FindingKind.NO_ADVANTAGE,),
        True,
        says="cannot say why",
    ),
    Situation(
        "no advantage although groups differ",
        lambda: merge(on_layout(GSPO, FULL - 2.0, FULL - 2.0, np.zeros(N), Padded(FULL)), group_metrics(centred(), GROUPS)),
        (FindingKind.NO_ADVANTAGE,),
        True,
        says="not the reason",
    ),
    Situation(
        "all masked, groups measured",
        lambda: merge(on_layout(GSPO, *[FULL * 0.0] * 2, centred(), Padded(~FULL)), group_metrics(centred(), GROUPS)),
        (FindingKind.ALL_MASKED,),
    ),
    Situation(
        "one NaN among the log-probs",
        lambda: batch(np.where(np.arange(N * T).reshape(N, T) == 7, np.nan, ratios(FITTING)), centred()),
        (FindingKind.NOT_FINITE,),
        says="loss = nan",
    ),
    Situation(
        "one NaN from the sampler",
        lambda: sampler(np.where(np.arange(N * T).reshape(N, T) == 7, np.nan, ratios(1e-3))),
        (FindingKind.NOT_FINITE,),
        says="cannot be judged",
    ),
    Situation("constant and on policy", lambda: batch(ratios(0), np.zeros(N)), (FindingKind.CONSTANT_GROUPS,), True),
    Situation(
        "all masked", lambda: on_layout(GSPO, *[FULL * 0.0] * 2, centred(), Padded(~FULL)), (FindingKind.ALL_MASKED,), True
    ),
    Situation("ratio 1 without old log-probs", on_policy_window, (FindingKind.RATIO_IS_ONE,), False, says="100% declared"),
    Situation(
        "ratio 1 with old log-probs taken anew each time",
        lambda: merge(*(batch(ratios(0), np.ones(N)) for _ in range(4))),
        (FindingKind.RATIO_IS_ONE,),
        False,
        says="0% declared",
    ),
    Situation(
        "everything clipped",
        lambda: batch(np.sign(centred())[:, None] * np.full((N, T), 0.01), centred()),
        (FindingKind.ALL_CLIPPED,),
        True,
        says="100% of 64",
    ),
    Situation(
        "everything clipped that has an advantage",
        lambda: batch(np.full((N, T), 0.01), np.where(GROUPS == 0, 1.0, 0.0)),
        (FindingKind.ALL_CLIPPED,),
        True,
        says="12% of 64",
    ),
    Situation(
        "the paper's range for answers of 10 tokens",
        lambda: batch(ratios(0.1)[:, :10], centred(), FULL[:, :10]),
        (FindingKind.CLIP_RANGE_NARROW,),
        says="10 tokens",
    ),
    Situation(
        "0.03 for answers of 10 tokens",
        lambda: batch(ratios(0.1)[:, :10], centred(), FULL[:, :10], GSPO.with_clip(0.03, 0.04)),
        (),
        objective=GSPO.with_clip(0.03, 0.04),
    ),
    Situation(
        "GRPO's range for long answers",
        lambda: batch(ratios(FITTING), centred(), FULL, GSPO.with_clip(0.2, 0.2)),
        (FindingKind.CLIP_RANGE_WIDE,),
        objective=GSPO.with_clip(0.2, 0.2),
        says="never acts",
    ),
    Situation(
        "the same range where ratios are tokens'", lambda: batch(ratios(FITTING), centred(), FULL, GRPO), (), objective=GRPO
    ),
    Situation(
        "a mean over tokens",
        lambda: batch(ratios(1e-3), centred(), ragged(), TOKEN_MEAN),
        (FindingKind.LENGTH_WEIGHTED,),
        objective=TOKEN_MEAN,
        says="20 times",
    ),
    Situation("a mean over equal lengths", lambda: batch(ratios(FITTING), centred(), FULL, TOKEN_MEAN), (), None, TOKEN_MEAN),
    Situation("a mean over sequences", lambda: batch(ratios(1e-3), centred(), ragged(), GSPO_TOKEN), (), objective=GSPO_TOKEN),
    Situation(
        "top-p that keeps 0.9",
        lambda: sampler(ratios(1e-3) + math.log(0.9)),
        (FindingKind.SAMPLER_BIAS,),
        says="0.9 on average",
    ),
    Situation("−2.8 nats over 9000 tokens", lambda: sampler(np.full((N, 9000), -2.8 / 9000)), (FindingKind.SAMPLER_BIAS,)),
    Situation("engines that agree", lambda: sampler(np.zeros((N, T))), ()),
    Situation("unbiased noise below the range", lambda: sampler(ratios(1e-3) - 5e-7), ()),
    Situation(
        "unbiased noise as wide as the range",
        lambda: sampler(ratios(0.01) - 5e-5),
        (FindingKind.SAMPLER_NOISE,),
        says="clip range's",
    ),
    Situation("the same noise without an objective", lambda: sampler(ratios(0.01) - 5e-5), (), objective=None),
    Situation(
        "two things at once",
        lambda: merge(batch(ratios(0), centred()), sampler(ratios(0.01) - 0.1)),
        (FindingKind.ON_POLICY_CENTRED, FindingKind.SAMPLER_BIAS, FindingKind.SAMPLER_NOISE),
    ),
    *(
        Situation(
            f"the correction rejected everything, drop={drop}, groups measured: {groups}",
            lambda drop=drop, groups=groups: corrected(
                Correction(ProductWeight(), Mask(0.0, 3.0, drop=drop)), FULL * 0.005, centred(), groups
            ),
            (FindingKind.ALL_REJECTED, FindingKind.SAMPLER_BIAS),
            True,
            says="rejected 100%",
        )
        for drop in (False, True)
        for groups in (True, False)
    ),
    Situation(
        "the correction rejected all that had an advantage",
        lambda: corrected(MIS, np.where(GROUPS < 4, 0.005, 0.0)[:, None] * FULL, np.where(GROUPS < 4, centred(), 0.0)),
        (FindingKind.ALL_REJECTED, FindingKind.SAMPLER_BIAS, FindingKind.SAMPLER_NOISE),
        True,
        says="rejected 50%",
    ),
    Situation(
        "constant groups under a correction that rejects some",
        lambda: corrected(MIS, np.where(GROUPS < 4, 0.005, 0.0)[:, None] * FULL, np.zeros(N)),
        (FindingKind.CONSTANT_GROUPS, FindingKind.SAMPLER_BIAS, FindingKind.SAMPLER_NOISE),
        True,
    ),
]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_each_situation_gives_exactly_the_right_finding(situation: Situation) -> None:
    metrics = situation.metrics()
    found = diagnose(metrics, situation.objective)
    assert tuple(finding.kind for finding in found) == situation.found
    numbers = summary(metrics)
    for finding in found:
        assert "{" not in finding.sentence
        assert finding.values
        for name, value in finding.values.items():
            assert name not in numbers or numbers[name] == value or math.isnan(value)
    if len(found) == 1:
        assert found[0].gradient_is_zero is situation.gradient_is_zero
        assert situation.says in found[0].sentence


@pytest.mark.parametrize("situation", [s for s in SITUATIONS if s.gradient_is_zero is not None], ids=lambda s: s.name)
def test_what_is_said_about_the_gradient_is_true(situation: Situation) -> None:
    """`gradient` is Σ |∂loss/∂logp|, and missing where there is no token."""
    assert (summary(situation.metrics()).get("gradient", 0.0) == 0.0) is situation.gradient_is_zero


def test_every_kind_occurs() -> None:
    assert {kind for situation in SITUATIONS for kind in situation.found} == set(FindingKind)


def test_on_policy_the_loss_is_minus_the_mean_advantage_and_the_gradient_that_of_reinforce() -> None:
    """What the sentence claims: −mean(A), and −A_i/(N |y_i|) on every token."""
    advantage, layout = centred() + 0.5, Padded(ragged())
    loss = policy_loss(GSPO, np.zeros((N, T)), np.zeros((N, T)), advantage, layout)
    assert float(loss.value) == pytest.approx(-advantage.mean(), abs=1e-12)
    expected = np.where(layout.mask, -advantage[:, None] / (N * layout.mask.sum(axis=1, keepdims=True)), 0.0)
    assert np.abs(loss.logp_grad - expected).max() < 1e-12


def test_thresholds_decide() -> None:
    fits = batch(ratios(FITTING), centred())
    assert diagnose(fits, GSPO) == ()
    assert [f.kind for f in diagnose(fits, GSPO, thresholds=Thresholds(wide=100.0))] == [FindingKind.CLIP_RANGE_WIDE]
    few = Thresholds(responses=N + 1)
    assert diagnose(sampler(np.full((N, T), math.log(0.9))), GSPO, thresholds=few) == ()
    first = batch(ratios(0), centred())
    assert [f.kind for f in diagnose(first, GSPO, thresholds=Thresholds(window=1))] == [FindingKind.RATIO_IS_ONE]


def test_merged_metrics_of_any_library_are_understood(library: Library) -> None:
    zero, advantage = (library.array(x.astype(np.float32)) for x in (np.zeros((2, 3)), np.array([1.0, -1.0])))
    layout = Padded(library.array(np.ones((2, 3), dtype=bool)))
    both = merge(on_layout(GSPO, zero, zero, advantage, layout), sampler_metrics(TIS, zero, zero, layout))
    assert [finding.kind for finding in diagnose(both, GSPO)] == [FindingKind.ON_POLICY_CENTRED]


def test_what_is_no_objective_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^objective"):
        diagnose(batch(ratios(0), centred()), "GSPO")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match=r"^metrics"):
        diagnose({})  # type: ignore[arg-type]  # wrong on purpose
