"""TRL: `GRPOTrainer._compute_loss` with its own `GRPOConfig`, and log-probs in place of a model."""

from __future__ import annotations

import importlib
import tempfile
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from gspo_core import GSPO
from gspo_core.objectives import BNPO, DAPO, DR_GRPO, GRPO, LUSPO, SAPO, FixedLength
from integration.wild.host import Host, Loss, Option, without_empty_rows


def loss(module: str = "trl", kind: str = "GRPO", reference: float = 1.0, metrics: Any = None, **settings: Any) -> Loss:
    """The loss of a micro-batch that is a whole optimizer step, by the trainer and the configuration of a module.

    With a KL term, `reference` times the old log-probs are those of the reference policy. What it logs goes into `metrics`.
    """
    torch, trainers = importlib.import_module("torch"), importlib.import_module(module)
    config = getattr(trainers, f"{kind}Config")(
        output_dir=tempfile.gettempdir(), use_cpu=True, bf16=False, report_to=[], **settings
    )
    trainer = getattr(trainers, f"{kind}Trainer")

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        inputs = {
            "prompt_ids": torch.zeros(len(mask), 0, dtype=torch.int64),
            "prompt_mask": torch.zeros(len(mask), 0, dtype=torch.int64),
            "completion_ids": torch.zeros(mask.shape, dtype=torch.int64),
            "completion_mask": mask.long(),
            "advantages": advantage,
            "old_per_token_logps": old_logp,
            "ref_per_token_logps": reference * old_logp,
            "num_items_in_batch": mask.sum(),
        }
        return trainer._compute_loss(_trainer(trainer, config, logp, metrics), None, inputs)

    return call


def _trainer(trainer: Any, config: Any, logp: Any, metrics: Any) -> Any:
    """What `_compute_loss` reads of a trainer: the options that its `__init__` copies, one process, one micro-batch."""
    names = ("beta", "loss_type", "importance_sampling_level", "top_entropy_quantile", "off_policy_mask_threshold", "use_vllm")
    high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    return SimpleNamespace(
        **{name: getattr(config, name) for name in names},
        get_off_policy_mask=trainer.get_off_policy_mask,
        get_gamma_weights=trainer.get_gamma_weights,
        args=config,
        epsilon_low=config.epsilon,
        epsilon_high=high,
        max_completion_length=config.max_completion_length,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, gather=_same, reduce=_same),
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)) if metrics is None else metrics,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, logp.detach() * 0, None),
    )


def _same(x: Any, **_: Any) -> Any:
    """What a gather or a reduction over one process returns."""
    return x


RECIPE: dict[str, Any] = {
    "importance_sampling_level": "sequence",
    "loss_type": "grpo",
    "beta": 0.0,
    "epsilon": 3e-4,
    "epsilon_high": 4e-4,
}
"""Without the sizes of batches, which do not enter the loss of one micro-batch."""

TRL = Host(
    "TRL",
    "trl",
    "GRPOTrainer._compute_loss with a GRPOConfig; log-probs in place of the model, one process, one micro-batch",
    (
        Option("GRPOConfig()", "the defaults: token-level DAPO", loss, DAPO.with_clip(0.2, 0.2)),
        Option(
            'importance_sampling_level="sequence"',
            "the option alone, everything else at its default",
            lambda: loss(importance_sampling_level="sequence"),
            GSPO.with_clip(0.2, 0.2),
        ),
        Option(
            'importance_sampling_level="sequence", loss_type="grpo", beta=0.0, epsilon=3e-4, epsilon_high=4e-4',
            "the paper index of TRL's documentation, section GSPO",
            lambda: loss(**RECIPE),
        ),
        Option('loss_type="grpo"', "the docstring of GRPOConfig", lambda: loss(loss_type="grpo"), GRPO.with_clip(0.2, 0.2)),
        Option('loss_type="bnpo"', "the docstring of GRPOConfig", lambda: loss(loss_type="bnpo"), BNPO.with_clip(0.2, 0.2)),
        Option(
            'loss_type="dr_grpo"',
            "the docstring of GRPOConfig; the length is max_completion_length",
            lambda: loss(loss_type="dr_grpo", max_completion_length=256),
            replace(DR_GRPO.with_clip(0.2, 0.2), reduction=FixedLength(256)),
        ),
        Option(
            'loss_type="luspo", importance_sampling_level="sequence"',
            "the paper index of TRL's documentation, section LUSPO",
            lambda: loss(loss_type="luspo", importance_sampling_level="sequence"),
            LUSPO.with_clip(0.2, 0.2),
        ),
        Option('loss_type="sapo"', "the docstring of GRPOConfig", lambda: loss(loss_type="sapo"), SAPO),
        Option("the recipe, and rows without a token left out", "the advice below", lambda: without_empty_rows(loss(**RECIPE))),
    ),
    "take the settings of TRL's paper index; the mean is over all rows, so let no row of a batch be without a token "
    "(mask_truncated_completions=False, the default)",
)
