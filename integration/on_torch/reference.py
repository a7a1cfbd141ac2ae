"""The reference policy of --kl: the model that the run starts from, frozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gspo_core.kl import KLTerm
from integration.on_torch.small_model import load_small
from integration.options.config import Config
from integration.shared.fingerprint import fingerprint_of
from integration.shared.pretrained import Ready, compute_in, load_pretrained
from integration.tasks.task import Task


def load_start(config: Config, task: Task, device: torch.device, ready: Ready | None = None) -> tuple[Any, Any]:
    """(model in float32, tokenizer) that --model names; `small` and `small-moe` are made if the cache has none."""
    if config.model not in {"small", "small-moe"}:
        return load_pretrained(config.model, cache=config.cache_dir, device=device, ready=ready)
    made = load_small(
        task, config.warm_up, config.experts if config.model == "small-moe" else None, cache=config.cache_dir,
        seed=config.seed, max_new_tokens=config.max_new_tokens, device=device,
    )  # fmt: skip
    if ready is not None:
        ready(made[1], made[0].config)
    return made


class Reference:
    """The frozen model. It is loaded anew on --resume, and its fingerprint says whether it is still the same."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        assert config.kl_estimator is not None
        self._estimator, self._coefficient = config.kl_estimator, config.kl_coefficient
        self.model, _ = load_start(config, task, device)
        self.model.requires_grad_(False)
        self.fingerprint = fingerprint_of((name, x.cpu().numpy()) for name, x in self.model.state_dict().items())
        compute_in(self.model, getattr(torch, config.dtype))

    def term(self, ref_logp: Tensor) -> KLTerm:
        """The penalty for a micro-batch with these reference log-probs [N, T]."""
        assert self._coefficient is not None
        return KLTerm(self._estimator, ref_logp, self._coefficient)
