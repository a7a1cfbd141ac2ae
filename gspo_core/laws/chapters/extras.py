"""What stands beside the policy loss: a KL penalty, a sampler's correction (needs 4 and 18)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight
from gspo_core.laws.kit.law import Law, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches
from gspo_core.laws.kit.subject import Subject


@law(
    "the KL term does not see the old policy",
    source="need 18; a KL term times the sequence ratio was trl#6594",
    otherwise="the KL penalty is multiplied by the importance ratio",
    needs={Claim.KL},
    cases=lambda setting: st.tuples(
        batches(setting, advantages=[0.0], kinds=["on policy"]), st.sampled_from([0.5, -0.25]), st.sampled_from([0.5, 0.0])
    ),
    anchors=lambda setting: [(Batch.of([[0.0]], [0.0]), 0.5, 0.5)],
)
def kl_alone(subject: Subject, setting: Setting, case: tuple[Batch, float, float]) -> bool:
    """With A = 0 only the KL term is left; another old policy changes neither its value nor its gradient."""
    batch, away, stale = case[0].poisoned(0.0), case[1], case[2]
    batch = replace(batch, ref_logp=np.where(batch.mask, batch.logp - away, 0.0))
    moved = replace(batch, old_logp=np.where(batch.mask, batch.logp - stale, 0.0))
    expected, found = subject(batch), subject(moved)
    note = f"A = 0, log π_ref = log π − {away:g}; with log π_old = log π − {stale:g} in place of log π:"
    plain = replace(setting, claims=setting.claims - {Claim.JUDGED})
    size = replace(batch, advantage=np.ones_like(batch.advantage))
    same_value(found, expected.value, plain, size, "the loss", note)
    same_weight(found, expected.weight, plain, size, "the gradient", note)
    return bool(batch.mask.any()) and stale != 0


@law(
    "a sampler that is the old policy changes nothing",
    source="need 4: π_old/π_sampler is 1",
    otherwise="the correction is not a ratio of old policy to sampler",
    needs={Claim.SAMPLER, Claim.JUDGED},
    cases=batches,
    anchors=lambda setting: [Batch.of([[0.0]], [1.0])],
)
def same_sampler(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """sampler_logp = old_logp: the loss of the objective alone."""
    batch = batch.poisoned(0.0)
    if not setting.is_clear(batch, subject.kink) or batch.largest > 49.0:
        return False
    found, verdict = subject(replace(batch, sampler_logp=batch.old_logp)), setting.verdict(batch)
    same_value(found, verdict.value, setting, batch, "the loss")
    same_weight(found, verdict.weight, setting, batch, "the gradient")
    return bool(batch.token_advantage.any())


@law(
    "the sampler's weight is held constant",
    source="need 4: the weight corrects the measure and is no function of π; not detached was verl#4105",
    otherwise="a gradient flows through the correction weight",
    needs={Claim.SAMPLER, Claim.CLIP, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([0.25, -0.25, 0.1]), st.integers(1, 3), st.sampled_from([0.5, 1.0])),
    anchors=lambda setting: [(0.25, 1, 1.0)],
    effort=0.3,
)
def constant_weight(subject: Subject, setting: Setting, case: tuple[float, int, float]) -> bool:
    """One response that cannot be clipped (A = −1, d = c > 0 on every token): value/|y| is each token's gradient."""
    gap, length, c = case
    batch = Batch.of([[c] * length], [-1.0])
    found = subject(replace(batch, sampler_logp=batch.old_logp - gap))
    note = f"log π_sampler = log π_old − {gap:g}; value/|y| is what the law says:"
    same_weight(found, np.full((1, length), found.value / length), setting, batch, "the gradient", note)
    return found.value != 0


@law(
    "no gradient reaches old log-probs or advantages",
    source="need 13 of the mutants: both are data; a baseline or an old policy that is still in the graph would be trained",
    otherwise="a gradient flows into what the loss should take for constants",
    needs={Claim.DETACHED},
    cases=lambda setting: batches(setting, rows=(1, 2), width=(1, 3)),
    anchors=lambda setting: [Batch.of([[0.0]], [1.0])],
    effort=0.3,
)
def detached(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """∂loss/∂old_logp = 0 and ∂loss/∂advantage = 0, as the framework's autodiff sees it."""
    leaks = subject.leaks(batch.poisoned(0.0))
    for name, gradient in leaks.items():
        demand(gradient, np.zeros(np.shape(gradient)), 0.0, f"the gradient that reaches {name}", batch)
    return bool(leaks)


EXTRAS: list[Law] = [detached, kl_alone, same_sampler, constant_weight]
