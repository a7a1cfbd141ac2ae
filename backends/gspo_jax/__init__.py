"""gspo_core for JAX: the same names and arguments, and a loss value that jax.grad can differentiate.

    grads = jax.grad(lambda logp: gspo_jax.policy_loss(GSPO, logp, old_logp, advantage, Padded(mask)).value)(logp)

    logp = gspo_jax.token_logp(hidden, lm_head, tokens, layout=layout)      # never holds tokens × vocabulary logits
    loss = gspo_jax.linear_policy_loss(GSPO, hidden, lm_head, tokens, old_logp, advantage, layout)      # in one: skips more

Importing it makes layouts, `PerToken` and `KLTerm` pytrees, so that they go in and out of jit, vmap and scan.
"""

import importlib.util

if importlib.util.find_spec("jax") is None:
    raise ImportError('gspo_jax needs JAX: pip install "gspo-core[jax]"')

from gspo_core.kl import KLTerm
from gspo_core.types import TokenScores

from . import pytrees
from .kl import kl_penalty
from .lm_head.head import VocabularyAxis
from .lm_head.linear import linear_policy_loss
from .lm_head.logp import token_logp, token_scores
from .policy import policy_loss

__all__ = [
    "KLTerm",
    "TokenScores",
    "VocabularyAxis",
    "kl_penalty",
    "linear_policy_loss",
    "policy_loss",
    "token_logp",
    "token_scores",
]

pytrees.register()
