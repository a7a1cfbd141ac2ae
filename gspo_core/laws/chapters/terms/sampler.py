"""Sampler corrections: a constant weight for an engine that samples from another policy than the old one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import rounding, same_value, same_weight
from gspo_core.laws.kit.law import Law, Violation, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches
from gspo_core.laws.kit.subject import Subject

NEAR = 1e-5
"""Relative error of a weight that is measured, also in float32."""


@law(
    "the correction changes nothing if the sampler is the old policy",
    source="docs/theory.md, D3: π_old/π_sampler is 1",
    otherwise="the correction is not the ratio of old policy to sampler",
    needs={Claim.SAMPLER, Claim.KNOWN_FORMULA},
    cases=batches,
    anchors=lambda setting: [Batch.of([[0.0]], [1.0])],
)
def same_sampler(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """sampler_logp = old_logp: value and gradient of the objective without a correction."""
    batch = batch.with_padding(0.0)
    if not setting.is_clear(batch, subject.kink) or batch.largest > 49.0:
        return False
    found, expected = subject(replace(batch, sampler_logp=batch.old_logp)), setting.expected(batch)
    same_value(found, expected.value, setting, batch, "the loss")
    same_weight(found, expected.weight, setting, batch, "the gradient")
    return bool(batch.token_advantage.any())


@law(
    "the correction follows the sampler",
    source="docs/theory.md, D3: the weight is a function of π_old/π_sampler that does not fall: the ratio, capped or filtered",
    otherwise="the sampler's log-probs are not read, or the ratio is turned over",
    needs={Claim.SAMPLER},
    cases=lambda setting: st.integers(1, 3),
    anchors=lambda setting: [1, 3],
    effort=0.05,
)
def follows_sampler(subject: Subject, setting: Setting, length: int) -> bool:
    """One response on policy, log π_old − log π_sampler = g: its weight at g = −0.1 is at most that at 0, its weight at 0.1
    at least that, unless it is filtered out, and some g among ±0.1 and ±8 changes it."""
    batch = Batch.of([[0.0] * length], [1.0])
    size = {g: -subject(replace(batch, sampler_logp=batch.old_logp - g)).value for g in (0.0, 0.1, -0.1, 8.0, -8.0)}
    slack = 1e-6 * abs(size[0.0])
    for g, least in ((-0.1, False), (-8.0, False), (0.1, True)):
        if (least and size[g] < size[0.0] - slack and size[g] != 0) or (not least and size[g] > size[0.0] + slack):
            note = f"one response on policy, A = 1; log π_old − log π_sampler = {g:g}, against 0"
            raise Violation("the size of the loss", batch, size[g], f"at {'least' if least else 'most'} {size[0.0]:.6g}", note)
    if len(set(size.values())) == 1:
        note = "one response on policy, A = 1; log π_sampler = log π_old ± 0.1 and ± 8"
        raise Violation("the loss", batch, -size[0.0], "another number for at least one of these samplers", note)
    return True


@law(
    "near the old policy the correction is π_old/π_sampler, for good and bad responses alike",
    source="docs/theory.md, D3; caps and filters act farther away: truncated importance sampling caps the ratio at 2 or more",
    otherwise="the correction is a power of the ratio, or it is applied to one sign of A only",
    needs={Claim.SAMPLER},
    cases=lambda setting: st.tuples(st.sampled_from([0.01, -0.01, 0.005]), st.sampled_from([1.0, -1.0])),
    anchors=lambda setting: [(gap, sign) for gap in (0.01, -0.01) for sign in (1.0, -1.0)],
    effort=0.05,
)
def plain_ratio(subject: Subject, setting: Setting, case: tuple[float, float]) -> bool:
    """One token on policy, log π_old − log π_sampler = g: the loss is e^g times that with g = 0, or, where a cap or a filter
    acts, 1 or 0 times that; and the same for A = 1 and A = −1."""
    gap, sign = case
    batches_of = [Batch.of([[0.0]], [a]) for a in (sign, -sign)]
    weights = []
    for batch in batches_of:
        found, still = (subject.value(replace(batch, sampler_logp=batch.old_logp - g)).value for g in (gap, 0.0))
        weights.append(found / still if still else math.nan)
    note = f"one token on policy; log π_old − log π_sampler = {gap:g}; the loss divided by that with 0"
    if not any(abs(weights[0] - w) <= NEAR for w in (math.exp(gap), 1.0, 0.0)):
        raise Violation("the weight of the correction", batches_of[0], weights[0], math.exp(gap), note)
    if abs(weights[1] - weights[0]) > NEAR:
        raise Violation("the weight of the correction", batches_of[1], weights[1], weights[0], f"{note}; required: as for −A")
    return True


@law(
    "the correction moves no clip bound",
    source="the weight π_old/π_sampler multiplies min(r A, clip(r) A); it is no part of r = π/π_old, which alone is clipped",
    otherwise="the ratio that is clipped is π/π_sampler: the correction is inside the clip",
    needs={Claim.SAMPLER, Claim.CLIP, Claim.LEVEL_RATIO},
    cases=lambda setting: st.tuples(st.sampled_from([0.9, 1.1]), st.sampled_from([1.0, -1.0]), st.integers(1, 2)),
    anchors=lambda setting: [(times, sign, 1) for times in (0.9, 1.1) for sign in (1.0, -1.0)],
    effort=0.1,
)
def outside_the_clip(subject: Subject, setting: Setting, case: tuple[float, float, int]) -> bool:
    """One response beside the bound for its sign of A, log π_old − log π_sampler = g with |g| of a fifth of the bound, towards
    and beyond it: its loss is the weight that g has on policy times its loss with g = 0."""
    times, sign, length = case
    bound = setting.log_bounds[1] if sign > 0 else setting.log_bounds[0]
    gap = 0.2 * bound * (1.0 if times < 1 else -1.0)
    beside, still = (Batch.of([[x] * length], [sign]) for x in (times * bound, 0.0))
    if not bound or not setting.is_clear(beside, subject.kink):
        return False
    found, plain, weighted, one = (
        subject.value(replace(b, sampler_logp=b.old_logp - g)) for b in (beside, still) for g in (gap, 0.0)
    )
    required = plain.value * weighted.value / one.value if one.value else math.nan
    note = f"log π_old − log π_sampler = {gap:.6g} at each token; required: as much larger than with 0 as on policy"
    demand(found.value, required, 4 * rounding(found, beside) * abs(required), "the loss", beside, note)
    return True


@law(
    "no gradient flows through the sampler's weight",
    source="π_old/π_sampler is a ratio of two fixed policies; a weight that was not detached: verl#4105",
    otherwise="the correction weight depends on the current policy and is not detached",
    needs={Claim.SAMPLER, Claim.CLIP, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([0.25, -0.25, 0.1]), st.integers(1, 3), st.sampled_from([0.5, 1.0])),
    anchors=lambda setting: [(0.25, 1, 1.0)],
    effort=0.3,
)
def constant_weight(subject: Subject, setting: Setting, case: tuple[float, int, float]) -> bool:
    """One response that cannot be clipped (A = −1, d = c > 0 on every token): the gradient of each token is value/|y|."""
    gap, length, c = case
    batch = Batch.of([[c] * length], [-1.0])
    found = subject(replace(batch, sampler_logp=batch.old_logp - gap))
    note = f"log π_sampler = log π_old − {gap:g}; required: value/|y| at each token"
    same_weight(found, np.full((1, length), found.value / length), setting, batch, "the gradient", note)
    return found.value != 0


@law(
    "a response's correction is a function of its whole ratio, or each token has its own",
    source="docs/theory.md, D3: π_old(y)/π_sampler(y) is a product over the tokens; a token's weight is its own ratio",
    otherwise="the correction of a response is another mean of its token ratios, which is no importance weight",
    needs={Claim.SAMPLER, Claim.WHOLE_WEIGHT},
    cases=lambda setting: st.tuples(st.sampled_from([0.1, 0.3]), st.integers(0, 1)),
    anchors=lambda setting: [(0.1, 0)],
    effort=0.1,
)
def whole_ratio(subject: Subject, setting: Setting, case: tuple[float, int]) -> bool:
    """On policy, two tokens with log π_old − log π_sampler = g and −g: the loss is that of 0 and 0, unless it is 0.

    A weight per token on one ratio per response, as TRL's token_truncate, multiplies the response's advantage by the mean of
    its tokens' weights: for such a loss pass `without={Claim.WHOLE_WEIGHT}`. A response that is filtered out has
    loss 0. Two tokens with unequal gradients have a weight each, and are not judged.
    """
    gap, padding = case
    batch = Batch.of([[0.0, 0.0] + [0.0] * padding], [1.0], [[1, 1] + [0] * padding])
    gaps = np.array([[gap, -gap] + [0.0] * padding])
    found, plain = (subject(replace(batch, sampler_logp=batch.old_logp - x)) for x in (gaps, 0.0 * gaps))
    if abs(found.weight[0, 0] - found.weight[0, 1]) > 1e-3 * abs(plain.weight[0, 0]) or found.value == 0:
        return False
    note = f"one response on policy, A = 1; log π_old − log π_sampler = {gap:g} and {-gap:g}; required: the loss with 0 and 0"
    same_value(found, plain.value, setting, batch, "the loss", note)
    return True


@law(
    "padding of the sampler's log-probs does not change the loss",
    source="docs/theory.md, G1: what is masked enters nothing",
    otherwise="the correction is not masked",
    needs={Claim.SAMPLER},
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from([0.2, -30.0])),
    anchors=lambda setting: [(Batch.of([[0.0, 0.0]], [1.0], [[1, 0]]), 0.2)],
    effort=0.2,
)
def sampler_padding(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Value and gradient with log π_sampler = 0 in masked slots, and with another number there."""
    batch = case[0].with_padding(0.0)
    quiet, loud = (replace(batch, sampler_logp=np.where(batch.mask, batch.old_logp - 0.1, x)) for x in (0.0, case[1]))
    expected, found = subject(quiet), subject(loud)
    note = f"log π_sampler = {case[1]:g} in masked slots; required: the result with 0 there"
    wide = found._replace(noise=4 * found.noise)
    same_value(wide, expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(wide, expected.weight, setting, batch, "the gradient", note)
    return not batch.mask.all() and bool(batch.token_advantage.any())


SAMPLER: list[Law] = [
    same_sampler,
    follows_sampler,
    plain_ratio,
    outside_the_clip,
    constant_weight,
    whole_ratio,
    sampler_padding,
]
