"""The reference policy of --kl: the model that the run starts from, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from huggingface_hub import snapshot_download

from gspo_core.kl import KLTerm
from integration.on_jax.learner import ONE_DEVICE
from integration.on_jax.mesh import Placement
from integration.on_jax.weights import load_decoder, named_weights
from integration.on_torch.small_model import make_small
from integration.options.config import Config
from integration.options.errors import UserError
from integration.shared.fingerprint import fingerprint_of
from integration.shared.pretrained import SMOLLM2, require_whole_model, smollm2_folder
from integration.tasks.task import Task

Array = Any


def start_of(config: Config, task: Task) -> Path:
    """A folder with the weights to start from: the PyTorch script's own for `small` and the like, so that both start alike."""
    if config.model in {"small", "small-moe"}:
        return make_small(
            task, config.warm_up, config.experts if config.model == "small-moe" else None, cache=config.cache_dir,
            seed=config.seed, max_new_tokens=config.max_new_tokens, device=torch.device("cpu"),
        )  # fmt: skip
    if config.model == SMOLLM2:
        return smollm2_folder(config.cache_dir)
    require_whole_model(config.model)
    if Path(config.model).is_dir():
        return Path(config.model)
    try:
        return Path(snapshot_download(config.model, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]))
    except (OSError, ValueError) as error:
        raise UserError(f"--model: {config.model} is neither a folder nor found on the hub: {error}") from error


class Reference:
    """The frozen weights. They are loaded anew on --resume, and their fingerprint says whether they are still the same."""

    def __init__(self, config: Config, task: Task, place: Placement = ONE_DEVICE) -> None:
        assert config.kl_estimator is not None
        self._estimator, self._coefficient = config.kl_estimator, config.kl_coefficient
        _, params = nnx.split(load_decoder(start_of(config, task)), nnx.Param)
        self.params = place.parameters(params)
        self.fingerprint = fingerprint_of(
            (name, np.asarray(jax.device_get(x))) for name, x in named_weights(self.params).items()
        )

    def term(self, ref_logp: Array) -> KLTerm:
        """The penalty for a micro-batch with these reference log-probs [N, T]."""
        assert self._coefficient is not None
        return KLTerm(self._estimator, ref_logp, self._coefficient)
