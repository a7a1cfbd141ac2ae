"""torchrl: `GRPOLoss`, and log-probs in place of an actor network."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

from gspo_core import GRPO
from gspo_core.objectives import BNPO
from integration.wild.host import Host, Loss, Option, without_empty_rows


def loss(**settings: Any) -> Loss:
    """`loss_objective` of a batch, without the entropy bonus."""
    torch, llm = importlib.import_module("torch"), importlib.import_module("torchrl.objectives.llm")
    kind = importlib.import_module("tensordict").TensorDict

    class Given(llm.GRPOLoss):  # type: ignore[misc, name-defined]  # a class of a package that need not be installed
        def _get_cur_log_prob(self, tensordict: Any) -> Any:
            return tensordict["current"], SimpleNamespace(mask=tensordict["valid"]), False

    module = Given(entropy_bonus=False, **settings)

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        tokens = advantage if advantage.ndim == 2 else advantage[:, None].expand(mask.shape)
        rows = {"current": logp, "valid": mask, "advantage": tokens[..., None], ("log_probs", "full"): old_logp}
        ids = torch.zeros(mask.shape, dtype=torch.int64)
        return module(kind({**rows, ("tokens", "full"): ids}, batch_size=mask.shape[:1])).loss_objective.sum()

    return call


TORCHRL = Host(
    "torchrl",
    "torchrl",
    "GRPOLoss without its entropy bonus; log-probs in place of the actor network",
    (
        Option("GRPOLoss()", "the defaults: a mean over tokens", loss, BNPO.with_clip(0.2, 0.2)),
        Option(
            'aggregation="prompt_mean"',
            "the docstring of GRPOLoss",
            lambda: loss(aggregation="prompt_mean"),
            GRPO.with_clip(0.2, 0.2),
        ),
        Option(
            "the same, and rows without a token left out",
            "the docstring of GRPOLoss",
            lambda: without_empty_rows(loss(aggregation="prompt_mean")),
            GRPO.with_clip(0.2, 0.2),
        ),
    ),
    "it has no ratio of responses; gspo_torch.trainers.torchrl puts one into GRPOLoss",
)
