"""Selection: which tokens of a batch learn.

Trust regions in probabilities, and choices by entropy, by covariance and by distance from the old policy.
"""

from .regions import BinaryKL, Region, TotalVariation, inside_region
from .tokens import kept_advantages, token_covariance, top_share, within_second_moment

__all__ = [
    "BinaryKL",
    "Region",
    "TotalVariation",
    "inside_region",
    "kept_advantages",
    "token_covariance",
    "top_share",
    "within_second_moment",
]
