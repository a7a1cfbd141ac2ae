"""GSPO inside TRL: `GRPOTrainer` with an objective of gspo_core in place of its loss.

    from gspo_torch.trainers.trl import GSPOConfig, GSPOTrainer

    args = GSPOConfig("runs/first", objective=GSPO, num_generations=8, per_device_train_batch_size=8)
    GSPOTrainer(model="...", reward_funcs=reward, args=args, train_dataset=dataset).train()

The objective, the number that the loss is divided by, KL term, entropy bonus and log-probs are those of this library; the data,
generation, vLLM, accelerate, FSDP and DDP, LoRA, checkpoints and logs are TRL's. config.py lists what is refused, and why.
"""

import importlib.util

if importlib.util.find_spec("trl") is None:
    raise ImportError('gspo_torch.trainers.trl needs TRL: pip install "gspo-core[trl]"')

from .config import GSPOConfig
from .trainer import GSPOTrainer

__all__ = ["GSPOConfig", "GSPOTrainer"]
