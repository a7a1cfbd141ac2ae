"""EasyDeL: for a negative advantage the clip acts above the range, where PPO, GRPO and GSPO have it act below.

    python easydel_clip.py PATH/easydel/trainers/group_relative_policy_optimization/_fn.py

It executes the function `grpo_step` from the text of that file, with log-probs in the place of a model.
"""

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp

tree = ast.parse(Path(sys.argv[1]).read_text(encoding="utf-8"))
step = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "grpo_step")
step.decorator_list, scope = [], {
    "jax": jax, "jnp": jnp, "LossMetrics": SimpleNamespace,
    "make_assertions_and_get_sizes": lambda **_: (1, 1, None),
    "with_sharding_constraint": lambda arr, **_: arr,
    "extract_generation_model_kwargs": lambda *_, **__: {},
    "repeat_prompt_aligned_model_kwargs": lambda *_, **__: {},
    "get_per_token_logps": lambda module, *_, **__: module.logp,
}  # fmt: skip
future = ast.parse("from __future__ import annotations").body
exec(compile(ast.Module([*future, step], []), sys.argv[1], "exec"), scope)


def gradient(d: float) -> float:
    """Of the loss with respect to the log-prob of one token whose ratio is exp(d), with A = -1."""

    def loss(logp: jax.Array) -> jax.Array:
        ids = jnp.zeros((1, 1), dtype="int32")
        batch = {"prompt_ids": ids[:, :0], "prompt_mask": ids[:, :0], "completion_ids": ids, "completion_mask": ids + 1}
        rows = {"advantages": jnp.array([-1.0]), "old_per_token_logps": jnp.zeros((1, 1))}
        state = SimpleNamespace(merge=lambda _: SimpleNamespace(logp=logp, __call__=None), graphstate=None)
        options = {"num_generations": 1, "beta": 0.0, "is_training": False, "epsilon": 0.2, "epsilon_high": 0.2}
        return scope["grpo_step"](state, {**batch, **rows}, **options).loss

    return float(jax.grad(loss)(jnp.array([[d]]))[0, 0])


print(f"ratio above the range (exp 0.3):  gradient {gradient(0.3):.4f}, expected {jnp.exp(0.3):.4f}")
print(f"ratio below the range (exp -0.3): gradient {gradient(-0.3):.4f}, expected 0.0000")
