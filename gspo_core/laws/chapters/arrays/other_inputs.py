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
    "the KL term pulls the policy to the reference",
    source="KL(π‖π_ref) falls when log π moves to log π_ref; docs/theory.md, A9: ∂k3/∂log π = 1 − π_ref/π",
    otherwise="the KL term is detached, has the wrong sign, or is an estimate whose gradient is no divergence's (k1)",
    needs={Claim.KL},
    cases=lambda setting: st.tuples(
        batches(setting, advantages=[0.0], kinds=["on policy"], rows=(1, 2), width=(1, 3)),
        st.sampled_from([0.5, -0.25, 0.1, -0.1]),
    ),
    anchors=lambda setting: [(Batch.of([[0.0]], [0.0]), 0.5), (Batch.of([[0.0]], [0.0]), -0.5)],
    effort=0.3,
)
def kl_pulls(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """With A = 0 and log π_ref = log π − c, the gradient at each token has the sign of c."""
    batch, away = case[0].with_padding(0.0), case[1]
    batch = replace(batch, ref_logp=np.where(batch.mask, batch.logp - away, 0.0))
    found = subject(batch)
    signs = np.where(batch.mask, np.sign(np.where(np.abs(found.weight) <= 1e3 * found.noise, 0.0, found.weight)), 0.0)
    demand(
        signs, np.where(batch.mask, np.sign(away), 0.0), 0.0, "the sign of the gradient", batch, f"log π_ref = log π − {away:g}"
    )
    return bool(batch.mask.any())


@law(
    "the KL term weighs responses as the loss does",
    source="GRPO, arXiv 2402.03300, eq. 3: the KL term is inside the mean over responses",
    otherwise="the KL term is a mean over all tokens, beside a policy loss that is a mean over responses",
    needs={Claim.KL, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(
        st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.5, -0.25]), st.sampled_from([0.1, 1.0])
    ),
    anchors=lambda setting: [(1, 3, 0.5, 1.0)],
    effort=0.3,
)
def kl_mean(subject: Subject, setting: Setting, case: tuple[int, int, float, float]) -> bool:
    """With A = 0, the loss of two responses is the mean of the losses of each of them alone."""
    first, second, away, further = case
    width = max(first, second)
    there = np.arange(width) < np.array([[first], [second]])
    both = Batch.of([[0.0] * width] * 2, [0.0, 0.0], there.astype(int).tolist())
    both = replace(both, ref_logp=np.where(there, both.logp - np.array([[away], [further]]), 0.0))
    alone = [
        subject(
            replace(
                both, **{name: getattr(both, name)[i : i + 1] for name in ("logp", "old_logp", "ref_logp", "advantage", "mask")}
            )
        )
        for i in range(2)
    ]
    plain = replace(setting, claims=setting.claims - {Claim.KNOWN_FORMULA})
    size = replace(both, advantage=np.ones(2))
    expected = (alone[0].value + alone[1].value) / 2
    same_value(subject(both), expected, plain, size, "the loss", "required: the mean of the losses of each response alone")
    return first != second


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
    """One response on policy, log π_old − log π_sampler = g: its weight at g = 0.1 is not below that at −0.1, and some g
    among ±0.1 and ±8 changes it."""
    batch = Batch.of([[0.0] * length], [1.0])
    loss = {g: subject(replace(batch, sampler_logp=batch.old_logp - g)).value for g in (0.0, 0.1, -0.1, 8.0, -8.0)}
    size = {g: -value for g, value in loss.items()}
    if size[0.1] < size[-0.1]:
        note = "one response on policy, A = 1; log π_sampler = log π_old − 0.1, against log π_old + 0.1"
        raise Violation("the size of the loss", batch, size[0.1], f"at least {size[-0.1]:.6g}", note)
    if len(set(loss.values())) == 1:
        note = "one response on policy, A = 1; log π_sampler = log π_old ± 0.1 and ± 8"
        raise Violation("the loss", batch, loss[0.0], "another number for at least one of these samplers", note)
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


OTHER_INPUTS: list[Law] = [
    untouched,
    detached,
    kl_alone,
    kl_pulls,
    kl_mean,
    same_sampler,
    follows_sampler,
    constant_weight,
]
