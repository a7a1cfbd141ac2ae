"""Selection: which tokens of a batch learn, and how much.

Trust regions in probabilities, choices by entropy, by covariance and by distance from the old policy, and FIPO's weights.
"""

from .future import future_kl_advantages
from .regions import inside_region
from .tokens import kept_advantages, token_covariance, top_share, within_second_moment

__all__ = [
    "future_kl_advantages",
    "inside_region",
    "kept_advantages",
    "token_covariance",
    "top_share",
    "within_second_moment",
]
