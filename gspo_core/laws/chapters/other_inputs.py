"""Inputs besides logp: constants without a gradient, a KL penalty's reference, a correction's sampler log-probs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight
from gspo_core.laws.kit.law import Law, Violation, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches
from gspo_core.laws.kit.subject import Subject


@law(
    "the KL term does not depend on the old policy",
    source="trl#6594, a KL term times the sequence ratio",
    otherwise="the KL penalty is multiplied by the importance ratio, or uses the old policy otherwise",
    needs={Claim.KL},
    cases=lambda setting: st.tuples(
        batches(setting, advantages=[0.0], kinds=["on policy"]), st.sampled_from([0.5, -0.25]), st.sampled_from([0.5, 0.0])
    ),
    anchors=lambda setting: [(Batch.of([[0.0]], [0.0]), 0.5, 0.5)],
)
def kl_alone(subject: Subject, setting: Setting, case: tuple[Batch, float, float]) -> bool:
    """With A = 0 only the KL term is left, and another old policy changes neither its value nor its gradient."""
    batch, away, stale = case[0].with_padding(0.0), case[1], case[2]
    batch = replace(batch, ref_logp=np.where(batch.mask, batch.logp - away, 0.0))
    moved = replace(batch, old_logp=np.where(batch.mask, batch.logp - stale, 0.0))
    expected, found = subject(batch), subject(moved)
    note = f"A = 0, log π_ref = log π − {away:g}; log π_old = log π − {stale:g}; required: the result with log π_old = log π"
    plain = replace(setting, claims=setting.claims - {Claim.KNOWN_FORMULA})
    size = replace(batch, advantage=np.ones_like(batch.advantage))
    same_value(found, expected.value, plain, size, "the loss", note)
    same_weight(found, expected.weight, plain, size, "the gradient", note)
    return bool(batch.mask.any()) and stale != 0


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
    "no gradient reaches old log-probs or advantages",
    source="GSPO eq. 8 to 10 differentiate log π_θ alone: old policy and advantages are data",
    otherwise="old log-probs or advantages that are still in the graph would be trained, too",
    needs={Claim.DETACHED},
    cases=lambda setting: batches(setting, rows=(1, 2), width=(1, 3)),
    anchors=lambda setting: [Batch.of([[0.0]], [1.0])],
    effort=0.3,
)
def detached(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """∂loss/∂old_logp = 0 and ∂loss/∂advantage = 0 by the framework's autodiff."""
    leaks = subject.leaks(batch.with_padding(0.0))
    for name, gradient in leaks.items():
        demand(gradient, np.zeros(np.shape(gradient)), 0.0, f"the gradient that reaches {name}", batch)
    return bool(leaks)


@law(
    "the loss leaves its inputs as they are",
    source="a loss is called again with the same old log-probs in every epoch of a rollout",
    otherwise="an input is overwritten, so that the next call, or the caller's next line, sees other numbers",
    cases=lambda setting: batches(setting, rows=(1, 2), width=(1, 3)),
    anchors=lambda setting: [Batch.of([[0.1, -0.2]], [1.0])],
    effort=0.1,
)
def untouched(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """After a call every array holds the numbers that it held before, padding included."""
    changed = subject.changed(batch.with_padding(7.0))
    if changed:
        raise Violation(f"the argument {changed[0]} after the call", batch, "other numbers", "the numbers from before")
    return True


OTHER_INPUTS: list[Law] = [untouched, detached, kl_alone, same_sampler, constant_weight]
