"""Liger: `LigerFusedLinearGRPOLoss`, whose hidden states are the logits and whose head is the identity."""

from __future__ import annotations

import importlib
from typing import Any

from gspo_core import GSPO
from gspo_core.objectives import DAPO
from integration.wild.host import Host, Loss, Option


def loss(*, filled: bool = False, reference: float = 1.0, **settings: Any) -> Loss:
    """The fused loss without its compiler, without a KL term unless `beta` is given; if `filled`, on rows that have a token.

    With a KL term, `reference` times the old log-probs are those of the reference policy.
    """
    torch, losses = importlib.import_module("torch"), importlib.import_module("liger_kernel.chunked_loss")
    fused = losses.LigerFusedLinearGRPOLoss(
        **{"beta": 0.0, "use_ref_model": bool(settings.get("beta")), "compiled": False, **settings}
    )

    def call(logits: Any, tokens: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        rows = mask.any(1) if filled and mask.any() else torch.ones(len(mask), dtype=torch.bool)
        head = torch.eye(logits.shape[-1], dtype=logits.dtype)
        parts = (logits[rows], head, tokens[rows], mask[rows].to(logits.dtype), advantage[rows])
        return fused(*parts, old_per_token_logps=old_logp[rows], ref_per_token_logps=reference * old_logp[rows])[0]

    return call


LEVEL: dict[str, Any] = {"importance_sampling_level": "sequence"}

LIGER = Host(
    "Liger-Kernel",
    "liger_kernel",
    "LigerFusedLinearGRPOLoss with beta=0, not compiled; logits as hidden states and the identity as LM head",
    (
        Option("LigerFusedLinearGRPOLoss(beta=0)", "the defaults: token-level DAPO", loss, DAPO.with_clip(0.2, 0.2)),
        Option(
            'importance_sampling_level="sequence"',
            "the option alone, everything else at its default",
            lambda: loss(**LEVEL),
            GSPO.with_clip(0.2, 0.2),
        ),
        Option(
            'importance_sampling_level="sequence", loss_type="grpo"',
            "the two options of its docstring",
            lambda: loss(loss_type="grpo", **LEVEL),
            GSPO.with_clip(0.2, 0.2),
        ),
        Option(
            "the same, and rows without a token left out",
            "the advice below",
            lambda: loss(filled=True, loss_type="grpo", **LEVEL),
            GSPO.with_clip(0.2, 0.2),
        ),
    ),
    'pass importance_sampling_level="sequence", loss_type="grpo" and beta=0, and leave out rows without a token',
)
