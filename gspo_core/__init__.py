"""Group Sequence Policy Optimization (GSPO) and its relatives: the loss, and its gradient in closed form.

A policy-gradient loss depends on a model only through the log-probabilities of the sampled tokens, so

    policy_loss(objective, logp, old_logp, advantage, layout) -> Loss(value, logp_grad, ...)

returns the loss and ∂loss/∂logp, on any array-API library. The rest of the chain rule is left to what computes the model:
PyTorch's autograd (`gspo_torch`), JAX's transformations (`gspo_jax`), a fused LM head, or your own code.

An objective is a ratio, a surrogate and a reduction:

    ratio       Token()          w_it = π(y_it)/π_old(y_it)
                Sequence()       s_i  = (π(y_i)/π_old(y_i))^(1/|y_i|)
                SequenceToken()  s_it = sg[s_i] · π(y_it)/sg[π(y_it)]
    surrogate   Clip(low, high)  min(s A, clip(s, 1 − low, 1 + high) A)
    reduction   SequenceMean()   mean over responses;  TokenMean()  mean over tokens

    GSPO       = Objective(Sequence(),      Clip(3e-4, 4e-4), SequenceMean())     arXiv 2507.18071
    GSPO_TOKEN = Objective(SequenceToken(), Clip(3e-4, 4e-4), SequenceMean())     arXiv 2507.18071
    GRPO       = Objective(Token(),         Clip(0.2, 0.2),   SequenceMean())     arXiv 2402.03300

These and the other names of this module are what a training script uses every day:

    loss             policy_loss, Objective, Loss, PerToken; GSPO.with_clip(low, high) for another clip range
    token layouts    Padded(mask), Packed(segment_ids, num_sequences), sharded(layout, sum_over_shards), Turns(layout, ...)
    advantages       group_advantages(rewards, group_ids)
    fewer rows       plan(rewards, group_ids).step(objective, layout): the responses worth running, and the denominator
    clip range       Pilot.measure(...), clip_range_for(0.15, pilot): the range that clips 15 % of responses like these
    sampling engine  sampler_weight(TIS, old_logp, sampler_logp, layout): π_old/π_sampler, multiplies the advantage
    KL penalty       kl_penalty(TokenKL(), logp, ref_logp, layout, ...): a separate term, which GSPO does not have
    metrics          batch_metrics(...), group_metrics(...) → merge(...) → summary(...), diagnose(...)

All of them, and everything else, are one level down, in one package or module for each concept:

    gspo_core.objectives   every ratio, surrogate, reduction, gate, and the presets of the literature
    gspo_core.layouts      token layouts, also a part of one (Restricted), or with weights (Weighted)
    gspo_core.advantages   normalisers, several rewards, rewards per turn
    gspo_core.mismatch     corrections for a sampling engine that differs from the trainer, and a report of the difference
    gspo_core.kl           KL estimators and penalties
    gspo_core.metrics      statistics that merge over batches and ranks, and what they say about a run
    gspo_core.clip_range   clip range from a clip fraction, and clip fraction from a clip range
    gspo_core.planning     responses that need not be run
    gspo_core.selection    tokens that learn: trust regions in probabilities, choices by entropy
    gspo_core.routing      the shift of a mixture's router (RSPO)
    gspo_core.types        the protocols behind all of these
    gspo_core.backend      what a package for another framework needs; docs/new-backend.md
    gspo_core.laws         checks of a loss that you wrote: pip install "gspo-core[laws]"
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

__version__ = "0.2.0"
