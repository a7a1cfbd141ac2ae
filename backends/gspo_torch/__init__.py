"""gspo_core for PyTorch: the same names and arguments, and a loss value that autograd can differentiate.

loss = gspo_torch.policy_loss(GSPO, logp, old_logp, advantage, Padded(mask))
loss.value.backward()

logp = gspo_torch.token_logp(hidden, lm_head, tokens)      # never holds tokens × vocabulary logits
"""

from .logp import token_logp
from .policy import policy_loss

__all__ = ["policy_loss", "token_logp"]
