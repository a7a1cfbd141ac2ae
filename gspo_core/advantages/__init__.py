"""Advantages: from the rewards of a group, or of each turn, to the advantage of a response, turn or token."""

from .groups import decoupled_advantages, group_advantages
from .lengths_and_ranks import BestOfGroup, LengthWeighted
from .normalisers import BatchStd, Centred, LeaveOneOut, MaxRL, Normaliser, ZScore
from .token_baselines import optimal_token_advantages
from .turns import reward_to_go, turn_advantages

__all__ = [
    "BatchStd",
    "BestOfGroup",
    "Centred",
    "LeaveOneOut",
    "LengthWeighted",
    "MaxRL",
    "Normaliser",
    "ZScore",
    "decoupled_advantages",
    "group_advantages",
    "optimal_token_advantages",
    "reward_to_go",
    "turn_advantages",
]
