"""verl: loss_mode=gspo averages over tokens by default, so that long responses weigh more than in GSPO's equation 5.

pip install verl && python verl_default.py
"""

import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import ActorConfig

LENGTHS = torch.tensor([1, 3])
mask = torch.arange(3) < LENGTHS[:, None]
old = torch.full((2, 3), -1.0)
advantages = torch.tensor([[1.0], [-1.0]]).expand(2, 3)


def loss(**options: str) -> float:
    """Of an actor with these options; current and old policy are equal, so that every ratio is 1."""
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **options)
    value, _ = get_policy_loss_fn("gspo")(old, old, advantages, mask, config.loss_agg_mode, config)
    return float(value)


print(f"default: {loss():.4f}")
print(f"loss_agg_mode=seq-mean-token-mean: {loss(loss_agg_mode='seq-mean-token-mean'):.4f}")
print(f"-(1/G) Σ s_i A_i, equation 5: {-float(advantages[:, 0].mean()):.4f}")
