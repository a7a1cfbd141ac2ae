"""KL terms: a penalty that pulls the policy to a reference, beside the loss of the advantages."""

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
    "the KL term pulls up rare tokens at least as hard as it pulls down frequent ones",
    source="docs/theory.md, A9: with x = log π_ref − log π, ∂k3/∂log π = 1 − eˣ, ∂(x²/2)/∂log π = −x",
    otherwise="policy and reference are exchanged in the KL term: tokens that the policy has made too rare stay rare",
    needs={Claim.KL},
    cases=lambda setting: st.tuples(st.sampled_from([2.0, 1.0, 0.5]), st.integers(1, 3)),
    anchors=lambda setting: [(2.0, 1)],
    effort=0.1,
)
def kl_side(subject: Subject, setting: Setting, case: tuple[float, int]) -> bool:
    """With A = 0, the gradient where log π = log π_ref − c is not smaller than where log π = log π_ref + c, c > 0."""
    away, length = case
    batch = Batch.of([[0.0] * length], [0.0], base=-3.0)
    rare, frequent = (subject(replace(batch, ref_logp=batch.logp + c)) for c in (away, -away))
    pull = {name: float(np.abs(found.weight).sum()) for name, found in (("rare", rare), ("frequent", frequent))}
    if pull["rare"] < pull["frequent"] * (1 - 1e-6) - 1e3 * rare.noise:
        note = f"log π_ref = log π + {away:g}; required: at least that with log π_ref = log π − {away:g}"
        raise Violation("the size of the gradient", batch, pull["rare"], pull["frequent"], note)
    return True


@law(
    "the KL term weighs responses as the loss does",
    source="GRPO, arXiv 2402.03300, eq. 3: the KL term is inside the mean over responses, and of each over its own tokens",
    otherwise="the KL term is another mean than the policy loss: over all tokens, over the padded width, or over responses",
    needs={Claim.KL},
    cases=lambda setting: st.tuples(
        st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.5, -0.25]), st.sampled_from([0.1, 1.0])
    ),
    anchors=lambda setting: [(1, 3, 0.5, 1.0)],
    effort=0.3,
)
def kl_mean(subject: Subject, setting: Setting, case: tuple[int, int, float, float]) -> bool:
    """With A = 0, the loss of two responses is the mean of the losses of each alone, without its padding.

    Each weighs as a response does in the policy loss: equally in a mean over responses, by its tokens in one over tokens.
    """
    first, second, away, further = case
    width = max(first, second)
    there = np.arange(width) < np.array([[first], [second]])
    both = Batch.of([[0.0] * width] * 2, [0.0, 0.0], there.astype(int).tolist())
    both = replace(both, ref_logp=np.where(there, both.logp - np.array([[away], [further]]), 0.0))
    alone = [subject(both.rows(slice(i, i + 1)).columns(slice(0, n))).value for i, n in enumerate((first, second))]
    by_tokens = Claim.TOKEN_MEAN in setting.claims
    if not by_tokens and Claim.SEQUENCE_MEAN not in setting.claims:
        return False
    shares = np.array([first, second]) / (first + second) if by_tokens else np.array([0.5, 0.5])
    plain = replace(setting, claims=setting.claims - {Claim.KNOWN_FORMULA})
    size = replace(both, advantage=np.ones(2))
    note = f"required: {shares[0]:.3g} and {shares[1]:.3g} times the losses of each response alone"
    same_value(subject(both), float(shares @ alone), plain, size, "the loss", note)
    return first != second


@law(
    "padding of the reference's log-probs does not change the loss",
    source="docs/theory.md, G1: what is masked enters nothing",
    otherwise="the KL term is not masked",
    needs={Claim.KL},
    cases=lambda setting: st.tuples(batches(setting, advantages=[0.0, 1.0]), st.sampled_from([7.0, -30.0])),
    anchors=lambda setting: [(Batch.of([[0.0, 0.0]], [0.0], [[1, 0]]), 7.0)],
    effort=0.2,
)
def kl_padding(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Value and gradient with log π_ref = 0 in masked slots, and with another number there."""
    batch = case[0].with_padding(0.0)
    quiet, loud = (replace(batch, ref_logp=np.where(batch.mask, batch.logp - 0.25, x)) for x in (0.0, case[1]))
    expected, found = subject(quiet), subject(loud)
    note = f"log π_ref = {case[1]:g} in masked slots; required: the result with 0 there"
    same_value(found, expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(found, expected.weight, setting, batch, "the gradient", note)
    return not batch.mask.all()


KL: list[Law] = [kl_alone, kl_pulls, kl_side, kl_mean, kl_padding]
