"""What the processes of tests import, and what transformers, matplotlib and reasoning-gym import when they are first used."""

from __future__ import annotations

import matplotlib.animation
import matplotlib.backends.backend_svg
import reasoning_gym
import support.lm_head.distributed_heads
import support.runs.on_processes
import torch.distributed.checkpoint
import torch.profiler
import transformers.models.qwen3.modeling_qwen3
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import integration.on_jax.training
import integration.on_torch.training
import integration.records.event_file
import integration.rewards.server
import integration.train_jax
import integration.train_torch

IMPORTED = (
    matplotlib.animation, matplotlib.backends.backend_svg, reasoning_gym, support.lm_head.distributed_heads,
    support.runs.on_processes, torch.distributed.checkpoint, torch.profiler, transformers.models.qwen3.modeling_qwen3,
    integration.on_jax.training, integration.on_torch.training, integration.records.event_file, integration.rewards.server,
    integration.train_jax, integration.train_torch,
)  # fmt: skip
get_checkpoint_conversion_mapping("qwen3")  # of all families, once: half a second
