"""Advantages: from the rewards of a group, or of each turn, to the advantage of a response, turn or token."""

from .groups import decoupled_advantages, group_advantages
from .normalisers import BatchStd, Centred, LeaveOneOut, MaxRL, Normaliser, ZScore
from .turns import reward_to_go, turn_advantages

__all__ = [
    "BatchStd",
    "Centred",
    "LeaveOneOut",
    "MaxRL",
    "Normaliser",
    "ZScore",
    "decoupled_advantages",
    "group_advantages",
    "reward_to_go",
    "turn_advantages",
]
