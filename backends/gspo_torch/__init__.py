"""gspo_core for PyTorch: the same names and arguments, and a loss value that autograd can differentiate.

loss = gspo_torch.policy_loss(GSPO, logp, old_logp, advantage, Padded(mask))
loss.value.backward()

logp = gspo_torch.token_logp(hidden, lm_head, tokens)      # never holds tokens × vocabulary logits
loss = gspo_torch.linear_policy_loss(GSPO, hidden, lm_head, tokens, old_logp, advantage, layout)      # both in one
"""

from .distributed import VocabularyShard, sum_over
from .linear import LinearLoss, linear_policy_loss
from .logp import TokenScores, token_logp, token_scores
from .policy import policy_loss
from .terms import KLTerm

__all__ = [
    "KLTerm",
    "LinearLoss",
    "TokenScores",
    "VocabularyShard",
    "linear_policy_loss",
    "policy_loss",
    "sum_over",
    "token_logp",
    "token_scores",
]
