"""Layouts: which slots of an array hold the policy's tokens, and which sequence each belongs to."""

from gspo_core.types import Layout

from .next_token import NextTokens, next_tokens
from .packed import Packed
from .padded import Padded
from .restricted import Restricted
from .shards import sharded
from .turns import Turns
from .weighted import Weighted

__all__ = [
    "Layout",
    "NextTokens",
    "Packed",
    "Padded",
    "Restricted",
    "Turns",
    "Weighted",
    "next_tokens",
    "sharded",
]
