"""The loss of a micro-batch whose tokens, whose head, or both are spread over ranks."""

from __future__ import annotations

import torch.distributed as dist
from gspo_torch import KLTerm, ModelHead, linear_policy_loss
from torch import Tensor

from gspo_core import Objective, Padded, PerToken
from gspo_core.objectives import LinearLoss
from integration.on_torch.parallel.context import Split
from integration.on_torch.parallel.vocabulary import rows_of
from integration.on_torch.sampling.rollout import Responses


def spread_loss(
    objective: Objective,
    hidden: Tensor,
    head: ModelHead,
    part: Responses,
    old_logp: Tensor,
    advantage: Tensor | PerToken,
    *,
    denominator: Tensor | None = None,
    kl: KLTerm | None = None,
    temperature: float = 1.0,
    split: Split | None = None,
    vocabulary: dist.ProcessGroup | None = None,
) -> LinearLoss:
    """`linear_policy_loss` of responses, with log-probs and entropies; no logits are kept.

    Args:
        hidden: [N, T, H] of `predicting_states`, or with a split [N, w, H] of its `states`.
        head: the whole head, on every rank.
        old_logp, advantage, denominator, kl: of whole responses, [N, T] per token, equal on all ranks that share these.
        split: the rank's share of the tokens; None: all.
        vocabulary: the ranks that share the head's rows; None: each has all.

    Returns: the same on every rank of either group, with whole token arrays [N, T]. The gradient of its value is the rank's
    part: over a context group parts add up; over a vocabulary group that of the body is whole on each rank, and the head's is
    multiplied so that the mean over the group is whole.
    """
    rows = None if vocabulary is None else rows_of(head, vocabulary)
    used = head if rows is None else rows.head
    options = used.options(temperature) | ({} if rows is None else {"vocabulary": rows.shard})
    options |= {"denominator": denominator, "return_logp": True, "return_entropy": True}
    if split is None:
        layout = Padded(part.mask)
        return linear_policy_loss(
            objective, hidden, used.weight, part.tokens, old_logp, advantage, layout, kl=kl, **options
        )  # fmt: skip
    shares = (split.take(part.tokens), split.take(old_logp), split.take_advantage(advantage), split.layout())
    return split.whole(linear_policy_loss(objective, hidden, used.weight, *shares, kl=split.take_term(kl), **options))
