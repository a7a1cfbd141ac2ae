"""gspo_core for JAX: the same names and arguments, and a loss value that jax.grad can differentiate.

grads = jax.grad(lambda logp: gspo_jax.policy_loss(GSPO, logp, old_logp, advantage, Padded(mask)).value)(logp)

logp = gspo_jax.token_logp(hidden, lm_head, tokens)      # never holds tokens × vocabulary logits

Importing it makes layouts, `PerToken` and `Loss` pytrees, so that they go in and out of jit, vmap and scan.
"""

from . import pytrees
from .head import VocabularyAxis
from .logp import token_logp
from .policy import policy_loss

__all__ = ["VocabularyAxis", "policy_loss", "token_logp"]

pytrees.register()
