"""Mutants of sign, stop-gradients, token advantages and precision, and of additional terms."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.packing import OwnGradient

from .mutant import (
    LIKE_GRPO,
    LIKE_TOKEN,
    WITH_KL,
    WITH_SAMPLER,
    A,
    Mutant,
    column,
    exp,
    gain,
    gspo,
    gspo_weight,
    log_s,
    mean,
    not_so,
    ratios,
    size,
    token_mean,
)

SIGN = "a good response is made likelier, a bad one less likely"
ON_POLICY = "on policy the gradient is REINFORCE's"
OWN = "the gradient of every token has its own advantage"
OWN_RATIO = "a token's gradient depends on its own ratio alone"
DERIVATIVE = "the gradient is the derivative of the value"
FLOAT32 = "with float32 inputs the loss is accurate to float32"
PULLS, FOLLOWS = "the KL term pulls the policy to the reference", "the correction follows the sampler"
UNTOUCHED = "the loss leaves its inputs as they are"
CONSTANT = "no gradient flows through the sampler's weight"
EQUALLY = "equal token advantages give the same loss as one advantage per response"


def wrong_sign(logp: A, old: A, a: A, mask: A) -> Any:
    """The objective where a loss is expected."""
    return -gspo(logp, old, a, mask)


def only_good_are_learnt_from(logp: A, old: A, a: A, mask: A) -> Any:
    """Negative advantages set to 0."""
    return gspo(logp, old, np.maximum(a, 0.0), mask)


def size_of_the_advantage(logp: A, old: A, a: A, mask: A) -> Any:
    """|A|."""
    return gspo(logp, old, np.abs(a), mask)


def stop_gradient_forgotten(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """GSPO-token without a stop-gradient on s: twice the gradient for one advantage per response."""
    a = token_mean(np.broadcast_to(column(a), mask.shape), mask)
    return OwnGradient(gspo(logp, old, a, mask), 2 * gspo_weight(logp, old, a, mask))


def stop_gradient_too_many(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The whole ratio detached: no gradient."""
    return OwnGradient(gspo(logp, old, a, mask), np.zeros(mask.shape))


def ratio_missing_in_the_gradient(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The clip decision without the factor s."""
    s = exp(log_s(logp, old, mask))[:, None]
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask) / s)


def length_missing_in_the_gradient(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """A closed form without 1/|y|."""
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask) * size(mask)[:, None])


def gradient_in_padding(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The gradient is spread over the whole row."""
    return OwnGradient(
        gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask).max(axis=1, keepdims=True) * np.ones(mask.shape)
    )


def token_advantages_collapse(logp: A, old: A, a: A, mask: A) -> Any:
    """A sequence ratio times token advantages: autograd gives every token their mean."""
    s = log_s(logp, old, mask)[:, None]
    return mean(token_mean(gain(s, column(a)), mask), mask)


def first_token_advantage(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The advantage of the first token is used for all."""
    a = column(a)[:, 0]
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask))


def advantage_of_the_next_token(logp: A, old: A, a: A, mask: A) -> Any:
    """GRPO with advantages off by one."""
    wide = np.broadcast_to(column(a), mask.shape)
    return mean(token_mean(gain(ratios(logp, old, mask), np.roll(wide, 1, axis=1)), mask), mask)


def token_advantage_divided(logp: A, old: A, a: A, mask: A) -> Any:
    """A response's advantage is divided among its tokens, token advantages are not."""
    share = a[:, None] / size(mask)[:, None] if a.ndim == 1 else a
    return mean(token_mean(gain(ratios(logp, old, mask), share), mask), mask)


def other_tokens_in_the_ratio(logp: A, old: A, a: A, mask: A) -> Any:
    """A GRPO whose token ratios are smoothed along the response."""
    d = ratios(logp, old, mask)
    return mean(token_mean(gain(0.5 * d + 0.5 * token_mean(d, mask)[:, None], column(a)), mask), mask)


def float16_sums(logp: A, old: A, a: A, mask: A) -> Any:
    """Sums in half precision."""
    d = ratios(logp, old, mask).astype(np.float16)
    return mean(gain(d.sum(axis=1, dtype=np.float16).astype(np.float64) / size(mask), a), mask)


def bfloat16_ratio(logp: A, old: A, a: A, mask: A) -> Any:
    """The ratio rounded to 8 bits, as bfloat16 does."""
    s = exp(log_s(logp, old, mask)).astype(np.float32)
    rounded = (s.view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32).astype(np.float64)
    return mean(gain(np.log(rounded), a), mask)


def entropy_bonus_left_in(logp: A, old: A, a: A, mask: A) -> Any:
    """An entropy-like term that does not depend on the advantage."""
    return gspo(logp, old, a, mask) + 0.01 * np.where(mask, logp, 0.0).sum() / max(1, mask.sum())


def reward_kl_not_detached(logp: A, old: A, a: A, mask: A) -> Any:
    """The advantage is lowered by β log(π/π_old), through which a gradient flows."""
    return gspo(logp, old, a - 0.1 * log_s(logp, old, mask), mask)


def kl_times_ratio(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """k3 multiplied by the sequence ratio."""
    x = ratios(ref_logp, logp, mask)
    k3 = token_mean(np.expm1(x) - x, mask)
    return gspo(logp, old, a, mask) - mean(0.1 * k3 * exp(log_s(logp, old, mask)), mask)


def kl_with_the_wrong_sign(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """k3 is subtracted, and pushes the policy away from the reference."""
    x = ratios(ref_logp, logp, mask)
    return gspo(logp, old, a, mask) + mean(0.1 * token_mean(np.expm1(x) - x, mask), mask)


def kl_detached(logp: A, old: A, a: A, mask: A, ref_logp: A) -> OwnGradient:
    """k3 is in the value, and not in the gradient."""
    x = ratios(ref_logp, logp, mask)
    value = gspo(logp, old, a, mask) - mean(0.1 * token_mean(np.expm1(x) - x, mask), mask)
    return OwnGradient(value, gspo_weight(logp, old, a, mask))


def kl_of_all_tokens(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """k3 as a mean over the tokens of the batch."""
    x = ratios(ref_logp, logp, mask)
    return gspo(logp, old, a, mask) + 0.1 * np.where(mask, np.expm1(x) - x, 0.0).sum() / max(1, mask.sum())


def sampler_not_read(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """Takes the sampler's log-probs and does nothing with them."""
    return gspo(logp, old, a, mask)


def sampler_ratio_turned_over(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """π_sampler/π_old in place of π_old/π_sampler."""
    return gspo(logp, old, a * exp(log_s(sampler_logp, old, mask)), mask)


def sampler_weight_not_detached(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """π/π_sampler in place of π_old/π_sampler, with its gradient."""
    return gspo(logp, old, a * exp(log_s(logp, sampler_logp, mask)), mask)


def squeezed(logp: A, old: A, a: A, mask: A) -> Any:
    """squeeze() removes the batch axis of a batch of one."""
    s = log_s(logp, old, mask)[:, None].squeeze()
    return -np.sum([gain(s[i], a[i]) for i in range(len(a)) if mask[i].any()]) / max(1, mask.any(axis=1).sum())


def old_policy_overwritten(logp: A, old: A, a: A, mask: A) -> Any:
    """Keeps the current policy as the next call's old one, in the caller's array."""
    loss = gspo(logp, old, a, mask)
    old[...] = logp
    return loss


def padding_cleared_in_place(logp: A, old: A, a: A, mask: A) -> Any:
    """Sets padding to 0 in the caller's array."""
    logp[~mask] = 0.0
    return gspo(logp, old, a, mask)


CREDIT = [
    Mutant(wrong_sign, SIGN, says="the sign is flipped"),
    Mutant(only_good_are_learnt_from, SIGN, says="negative advantages are set to 0"),
    Mutant(size_of_the_advantage, SIGN, says="the sign of the advantage is lost"),
    Mutant(stop_gradient_forgotten, ON_POLICY, LIKE_TOKEN, says="the gradient is 2 times its derivative"),
    Mutant(stop_gradient_too_many, SIGN, says="log π is detached"),
    Mutant(ratio_missing_in_the_gradient, DERIVATIVE, says="the gradient lacks the factor r"),
    Mutant(length_missing_in_the_gradient, DERIVATIVE, says="the gradient lacks the factor 1/|y|"),
    Mutant(gradient_in_padding, "a masked slot has no gradient", says="masked slots have a gradient"),
    Mutant(
        token_advantages_collapse,
        OWN,
        LIKE_TOKEN,
        seen="OpenRLHF, NeMo-RL, slime, ROLL, TRL, EasyDeL",
        says="token advantages collapse",
    ),
    Mutant(first_token_advantage, OWN, LIKE_TOKEN, says="the advantage of its first one"),
    Mutant(advantage_of_the_next_token, OWN, LIKE_GRPO, says="token advantages are off by one slot"),
    Mutant(
        token_advantage_divided,
        EQUALLY,
        LIKE_GRPO,
        claims=frozenset({Claim.TOKEN_ADVANTAGES}),
        says="with one advantage per response, each response is divided by its length once more",
    ),
    Mutant(other_tokens_in_the_ratio, OWN_RATIO, LIKE_GRPO, says=not_so(OWN_RATIO)),
    Mutant(float16_sums, FLOAT32, says="are rounded, as to bfloat16 or float16"),
    Mutant(bfloat16_ratio, FLOAT32, says="are rounded, as to bfloat16"),
    Mutant(entropy_bonus_left_in, "with advantage 0 the loss and its gradient are 0", says="rarer, as an entropy bonus does"),
    Mutant(
        reward_kl_not_detached,
        "twice the advantage, twice the loss",
        seen="advantages not detached",
        says="lowered by 0.1 · log(π/π_old) inside the loss, and a gradient flows through it",
    ),
    Mutant(
        kl_times_ratio,
        "the KL term does not depend on the old policy",
        seen="trl#6594",
        names=WITH_KL,
        says="multiplied by the importance ratio",
    ),
    Mutant(kl_with_the_wrong_sign, PULLS, names=WITH_KL, says="the KL term is subtracted"),
    Mutant(kl_detached, PULLS, names=WITH_KL, says="the KL term is detached"),
    Mutant(
        kl_of_all_tokens,
        "the KL term weighs responses as the loss does",
        names=WITH_KL,
        says="in the KL term, every token has the same weight",
    ),
    Mutant(sampler_not_read, FOLLOWS, names=WITH_SAMPLER, says="the sampler's log-probs are ignored"),
    Mutant(sampler_ratio_turned_over, FOLLOWS, names=WITH_SAMPLER, says="the correction is turned over"),
    Mutant(sampler_weight_not_detached, CONSTANT, seen="verl#4105", names=WITH_SAMPLER, says="the weight is π/π_sampler"),
    Mutant(old_policy_overwritten, UNTOUCHED, says="the loss overwrites its argument old_logp"),
    Mutant(padding_cleared_in_place, UNTOUCHED, says="the loss overwrites its argument logp"),
    Mutant(squeezed, "every batch has a finite loss, however small", says="the loss raises IndexError"),
]
