"""Objectives of your own.

python integration/train_torch.py --model small --task spell_backward --objective docs/examples/my_loss.py:WIDE
"""

from __future__ import annotations

from gspo_core import Clip, Objective
from gspo_core.objectives import SequenceMean, SequenceToken

WIDE = Objective(SequenceToken(), Clip(0.1, 0.2), SequenceMean())
"""GSPO-token with a clip range of its own."""
