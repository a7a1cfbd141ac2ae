"""Tiny models in float64, a padded batch of responses, and the losses that are spread over four ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from gspo_torch import KLTerm
from torch import Tensor

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective, PerToken
from gspo_core.kl import K3
from integration.on_torch.sampling.rollout import Responses

WORLD, PROMPT, LENGTHS = 4, (4, 1, 2, 4, 3), (9, 1, 3, 4, 2)
"""Processes, and of each of five responses the tokens of its prompt, padded on the left, and of itself."""
WIDER = GSPO.with_clip(0.03, 0.04)
VOCABULARY = 13
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": True},
    "llama": {"tie_word_embeddings": False},
    "mistral": {"sliding_window": 3},
    "qwen2": {"sliding_window": 3, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]},
}
"""All tokens attended to; windows in every layer; windows and all by turns. (Gemma adds gradients up in float32.)"""
MIXING: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4, "time_step_rank": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "bloom": {"n_layer": 2, "n_head": 4},
}
"""Layers that are recurrent, convolutional, or attend without transformers' interface."""


FIT: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": True},
    "gemma2": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3, "query_pre_attn_scalar": 4},
}
"""Attention of PyTorch, and attention of the model's own file."""


@dataclass(frozen=True)
class Case:
    """One loss, on a mesh of data × context × vocabulary."""

    mesh: tuple[int, int, int]
    zigzag: bool = False
    family: str = "qwen3"
    objective: Objective = WIDER
    kl: bool = False
    per_token: bool = False
    recomputed: bool = False
    prompts: tuple[int, ...] = PROMPT


CASES = {
    "data × context": Case((2, 2, 1)),
    "data × context, zig-zag": Case((2, 2, 1), zigzag=True),
    "context": Case((1, 4, 1)),
    "context, zig-zag": Case((1, 4, 1), zigzag=True),
    "data × vocabulary": Case((2, 1, 2)),
    "vocabulary": Case((1, 1, 4)),
    "context × vocabulary, zig-zag": Case((1, 2, 2), zigzag=True),
    "a head of its own": Case((1, 2, 2), family="llama"),
    "a window": Case((1, 4, 1), family="mistral"),
    "a window, zig-zag": Case((2, 2, 1), zigzag=True, family="mistral"),
    "windows by turns, zig-zag": Case((2, 2, 1), zigzag=True, family="qwen2"),
    "ratios of tokens, zig-zag": Case((2, 2, 1), zigzag=True, objective=GRPO.with_clip(0.03, 0.04)),
    "a penalty": Case((2, 2, 1), zigzag=True, kl=True),
    "advantages of tokens": Case((1, 2, 2), objective=GSPO_TOKEN.with_clip(0.03, 0.04), per_token=True),
    "no padding on the left": Case((1, 4, 1), prompts=(4, 4, 4, 4, 4)),
    "no padding on the left, windows by turns, zig-zag": Case((2, 2, 1), True, "qwen2", prompts=(4, 4, 4, 4, 4)),
    "layers recomputed": Case((2, 2, 1), zigzag=True, family="llama", recomputed=True),
}


def model_of(family: str, sizes: dict[str, Any] | None = None) -> Any:
    """A random model in float64, the same on every rank."""
    torch.manual_seed(0)
    kind = transformers.models.auto.configuration_auto.CONFIG_MAPPING[family]
    known = kind.__dataclass_fields__
    options = {name: value for name, value in SIZES.items() if name in known} | (FAMILIES[family] if sizes is None else sizes)
    return transformers.AutoModelForCausalLM.from_config(kind(**options)).double().eval()


def responses(prompts: tuple[int, ...] = PROMPT) -> Responses:
    """The whole batch."""
    generator = torch.Generator().manual_seed(1)
    prompt, tokens = (
        torch.randint(1, VOCABULARY, (len(LENGTHS), max(lengths)), generator=generator) for lengths in (prompts, LENGTHS)
    )
    there = torch.arange(max(prompts)) >= max(prompts) - torch.tensor(prompts)[:, None]
    return Responses(prompt, there.long(), tokens, torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None])


def plain_logp(model: Any, part: Responses) -> Tensor:
    """[N, T] log-probs from all logits of each text alone, with gradient; 0 in masked slots."""
    rows = []
    for prompt, there, tokens, mask in zip(part.prompt_ids, part.prompt_mask, part.tokens, part.mask, strict=True):
        ids = torch.cat([prompt[there > 0], tokens[mask]])
        scores = torch.log_softmax(model(ids[None], use_cache=False).logits[0], -1)[:-1].gather(1, ids[1:, None])[:, 0]
        rows.append(torch.nn.functional.pad(scores[-int(mask.sum()) :], (0, len(mask) - int(mask.sum()))))
    return torch.stack(rows)


@dataclass(frozen=True)
class Inputs:
    """What a loss is given beside the model, of all responses."""

    old_logp: Tensor
    advantage: Tensor | PerToken
    kl: KLTerm | None

    def rows(self, index: Tensor) -> Inputs:
        """Of some of the responses."""
        advantage = PerToken(self.advantage.values[index]) if isinstance(self.advantage, PerToken) else self.advantage[index]
        kl = None if self.kl is None else KLTerm(self.kl.estimator, self.kl.ref_logp[index], self.kl.coefficient)
        return Inputs(self.old_logp[index], advantage, kl)


def inputs_of(case: Case, logp: Tensor) -> Inputs:
    """Two responses are beyond the clip range; half a nat of noise for a reference."""
    noise = torch.randn(logp.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    moved = torch.tensor([0.1, 0.0, 0.0, -0.1, 0.0], dtype=torch.float64)[:, None]
    advantage = torch.tensor([-1.0, -1.0, 2.0, 1.5, 0.5], dtype=torch.float64)
    per_token = PerToken(advantage[:, None] + 0.1 * noise) if case.per_token else advantage
    kl = KLTerm(K3(), logp + 0.5 * noise, 0.1) if case.kl else None
    return Inputs(logp + 0.01 * noise + moved, per_token, kl)
