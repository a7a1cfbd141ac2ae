"""Train a language model with GSPO (arXiv 2507.18071) in JAX, as train_torch.py does in PyTorch, from the same weights.

    make train-jax                                                      the README's run
    python integration/train_jax.py --model small --task spell_backward --rollouts 40
    python integration/train_jax.py --data-parallel 4 --model-parallel 2 ...     on a mesh of 8 devices, docs/training.md
    python integration/train_jax.py --resume runs/...                   continue after a kill or Ctrl-C

Tasks, options, run folder and report are those of train_torch.py. The model is a Llama, Mistral, Qwen2, Qwen3 or Qwen3-MoE in
flax nnx, read from a folder of transformers; the optimizer is optax's. A rollout and its
updates are on_jax/training.py.
"""

from __future__ import annotations

import sys

from integration.on_jax.options import check_options
from integration.options.command_line import command_line
from integration.options.config import Config


def train(config: Config) -> int:
    """A run to its end; returns the exit status."""
    check_options(config)
    from integration.on_jax.training import train as run  # noqa: PLC0415 (--help and wrong options do not wait for JAX)

    return run(config)


if __name__ == "__main__":
    sys.exit(command_line(train, __doc__))
