"""TRL: where fully_shard makes a unit of its own of the LM head, the fused head's gradient is not the mean over ranks.

pip install trl && torchrun --standalone --nproc_per_node=2 trl_head_fsdp.py
"""

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl.trainer.utils import add_fused_lm_head

SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False, "pad_token_id": 0}


def gradient(units: str) -> torch.Tensor:
    """Of the LM head's weight, for a loss of which each rank has its own rows."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, **HEADS))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if units == "head alone":
        fully_shard(model.lm_head, mesh=mesh)
    if units != "not sharded":
        fully_shard(model, mesh=mesh)
    add_fused_lm_head(model)
    ids = torch.randint(32, (4, 6), generator=torch.Generator().manual_seed(1))
    own = ids if units == "not sharded" else ids.chunk(dist.get_world_size())[dist.get_rank()]
    loss = -model(input_ids=own, labels=own, fused_lm_head=True).log_probs.sum() / own.shape[0]
    loss.backward()
    grad = model.lm_head.weight.grad
    return grad if units == "not sharded" else grad.full_tensor()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    expected = gradient("not sharded")
    for case in ("root only", "head alone"):
        error = float((gradient(case) - expected).norm() / expected.norm())
        if os.environ["RANK"] == "0":
            print(f"{case}: relative error of the gradient {error:.1e}")
    dist.destroy_process_group()
