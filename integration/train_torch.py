"""Train a causal language model with GSPO (arXiv 2507.18071), end to end.

    make train, make train-small                                        the README's two runs
    python integration/train_torch.py --model Qwen/Qwen3-0.6B --device cuda --template-args enable_thinking=False
    python integration/train_torch.py --model small-moe --routing-replay r3 --router-noise 0.2       docs/moe.md
    python integration/train_torch.py --resume runs/...                 continue after a kill or Ctrl-C

The paper's loop: sample G responses to each prompt, judge each against its group, cut the rollout batch into mini-batches
and take one optimizer step on each, so that the policy leaves the one that sampled and the clip range matters. GSPO has no
KL penalty; --kl adds one. A rollout and its updates are on_torch/training.py.
The trainer samples with its own KV cache, or with vLLM (--sampler vllm, not yet verified on a GPU: docs/scaling.md);
--router-noise and --sampler-dtype make the sampler disagree as another engine would. Several devices: torchrun, --parallel.
"""

from __future__ import annotations

import sys

from integration.options.command_line import command_line
from integration.options.config import Config
from integration.options.errors import UserError


def train(config: Config) -> int:
    """A run to its end; returns the exit status."""
    require_no_mesh(config)
    from integration.on_torch.training import train as run  # noqa: PLC0415 (--help and wrong options do not wait for PyTorch)

    return run(config)


def require_no_mesh(config: Config) -> None:
    """UserError for the devices of a JAX mesh."""
    for name in ("data_parallel", "model_parallel"):
        if getattr(config, name) > 1:
            raise UserError(
                f"--{name.replace('_', '-')}: is of the JAX script, which has one process for all devices; PyTorch has one for "
                "each: torchrun --nproc-per-node 8 integration/train_torch.py ..."
            )


if __name__ == "__main__":
    sys.exit(command_line(train, __doc__))
