"""Group Sequence Policy Optimization, stated once: an estimator is a value and a weight.

A policy-gradient loss touches a model only through the log-probabilities of the sampled tokens, so

    policy_loss(objective, logp, old_logp, advantage, layout) -> Loss(value, logp_grad, ...)

returns the loss and ∂loss/∂logp in closed form, on any array-API library, and whoever owns the model finishes the
chain rule: PyTorch's autograd (`gspo_torch`), JAX's, a fused LM head, or nobody at all.

An objective is three choices, and a fourth where a method needs one:

    ratio       Token()          w_it = π(y_it)/π_old(y_it)
                Sequence()       s_i  = (π(y_i)/π_old(y_i))^(1/|y_i|)
                SequenceToken()  s_it = sg[s_i] · π(y_it)/sg[π(y_it)]      ·   Product()   ·   ProductToken()
                Turn()        s_ik, the same inside each turn of a dialogue     ·   TurnToken()
    surrogate   Clip(low, high)  min(s A, clip(s, 1 − low, 1 + high) A)
                Unclipped · DualClip · GateOnly · SoftGate · TruncatedWeight · ReciprocalWeight · GammaWeight
    reduction   SequenceMean()   ·   TokenMean()   ·   FixedLength(length)   ·   TurnMean()
    gate        TokenClip(low, high)   ·   Band(width, length_power)   ·   OffPolicyMask(delta)   ·   None

    GSPO       = Objective(Sequence(),      Clip(3e-4, 4e-4), SequenceMean())     arXiv 2507.18071
    GSPO_TOKEN = Objective(SequenceToken(), Clip(3e-4, 4e-4), SequenceMean())
    GRPO       = Objective(Token(),         Clip(0.2, 0.2),   SequenceMean())     arXiv 2402.03300

and a dozen more in `gspo_core.objectives`. Around it:

    advantage   group_advantages, decoupled_advantages, turn_advantages      what a response, or a turn, is worth
    dropping    plan(rewards, group_ids).step(objective, layout)              what need not be run, and the denominator
    sampler     sampler_weight(TIS, old_logp, sampler_logp, layout)          π_old/π_sampler, multiplies the advantage
    routing     router_shift(old_router_logp, router_logp, layout, floor=...)   RSPO: a shift of the old log-probs
    clip range  clip_range_for(0.15, pilot), clip_fraction_for(clip, pilot)   ε from a few rollouts, and back
    metrics     batch_metrics(...), sampler_metrics(...) → merge → summary    clipping, log s, divergences; on the device
    engines     mismatch_report(logp, old_logp, sampler_logp, ...)            staleness and engine noise, told apart
    KL          kl_penalty(TokenKL(), logp, ref_logp, layout, ...)           a term of its own, off by default
"""

from .advantages import group_advantages
from .clip_range import Pilot, clip_range_for
from .kl import TokenKL, kl_penalty
from .layouts import Packed, Padded, Turns, sharded
from .metrics import batch_metrics, diagnose, group_metrics, merge, summary
from .mismatch import TIS, sampler_weight
from .objectives import (
    GRPO,
    GSPO,
    GSPO_TOKEN,
    Clip,
    Loss,
    Objective,
    PerToken,
    Sequence,
    SequenceMean,
    SequenceToken,
    Token,
    TokenMean,
    policy_loss,
)
from .planning import plan

__all__ = [
    "GRPO",
    "GSPO",
    "GSPO_TOKEN",
    "TIS",
    "Clip",
    "Loss",
    "Objective",
    "Packed",
    "Padded",
    "PerToken",
    "Pilot",
    "Sequence",
    "SequenceMean",
    "SequenceToken",
    "Token",
    "TokenKL",
    "TokenMean",
    "Turns",
    "batch_metrics",
    "clip_range_for",
    "diagnose",
    "group_advantages",
    "group_metrics",
    "kl_penalty",
    "merge",
    "plan",
    "policy_loss",
    "sampler_weight",
    "sharded",
    "summary",
]

__version__ = "0.1.0"
