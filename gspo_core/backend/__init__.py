"""The contract of a backend: everything of the core that a backend uses beside the public names.

A backend attaches the closed-form weight of a loss to the automatic differentiation of one framework. Its `policy_loss` has
the arguments, results and errors of `gspo_core.policy_loss`, and the derivative of its `value` with respect to `logp` is
`Loss.logp_grad`. It needs three things for that:

1. The value and the weight: `gspo_core.policy_loss`, whose operations need not be recorded for differentiation.
2. The weight as a function, `weight_as_function`, if the framework can differentiate a gradient again; for a KL penalty,
   whose value the core holds constant as well, `kl_weight_as_function`.
3. A way for the framework to see the arrays inside a layout and inside `PerToken`: both are frozen dataclasses whose fields
   are arrays, layouts, or plain Python values.

A backend with a loss on hidden states returns a `gspo_core.objectives.LinearLoss`. It may leave out the tokens that are not
`active_tokens`, an entropy bonus is a mean by `token_shares`, a layout is sharded if `layout.local is not layout`, and
arguments are checked with the functions of the core, so that errors read alike.
docs/new-backend.md builds a backend of 50 lines on this module.
"""

from gspo_core._lib.array import check_array
from gspo_core._lib.checks import as_coefficient, as_number, as_positive, as_whole, check_flag
from gspo_core._lib.validation import check_layout
from gspo_core.kl.penalty import check_term

from .active import active_tokens
from .kl_weight import kl_weight_as_function
from .shares import token_shares
from .weight import weight_as_function

__all__ = [
    "active_tokens",
    "as_coefficient",
    "as_number",
    "as_positive",
    "as_whole",
    "check_array",
    "check_flag",
    "check_layout",
    "check_term",
    "kl_weight_as_function",
    "token_shares",
    "weight_as_function",
]
