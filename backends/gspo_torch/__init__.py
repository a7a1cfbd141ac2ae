"""gspo_core for PyTorch: the same names and arguments, and a loss value that autograd can differentiate.

    loss = gspo_torch.policy_loss(GSPO, logp, old_logp, advantage, Padded(mask))
    loss.value.backward()

    logp = gspo_torch.token_logp(hidden, lm_head, tokens, layout=layout)      # never holds tokens × vocabulary logits
    loss = gspo_torch.linear_policy_loss(GSPO, hidden, lm_head, tokens, old_logp, advantage, layout)      # both in one

For a mixture of experts, the experts that each token went to in one pass can be used again in another:

    with record_routes(model) as routes: ...
    with replay_routes(model, routes): ...
"""

import importlib.util

if importlib.util.find_spec("torch") is None:
    raise ImportError('gspo_torch needs PyTorch: pip install "gspo-core[torch]"')

from gspo_core.kl import KLTerm
from gspo_core.types import TokenScores

from .distributed import VocabularyShard, sum_over
from .kl import kl_penalty
from .lm_head.linear import linear_policy_loss
from .lm_head.logp import token_logp, token_scores
from .lm_head.of_model import ModelHead, model_head
from .merging import merge_over
from .policy import policy_loss
from .routing.replay import record_routes, replay_routes
from .routing.routes import Routes

__all__ = [
    "KLTerm",
    "ModelHead",
    "Routes",
    "TokenScores",
    "VocabularyShard",
    "kl_penalty",
    "linear_policy_loss",
    "merge_over",
    "model_head",
    "policy_loss",
    "record_routes",
    "replay_routes",
    "sum_over",
    "token_logp",
    "token_scores",
]
