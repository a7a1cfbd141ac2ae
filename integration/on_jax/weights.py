"""From the files of a transformers checkpoint to a decoder, and from its weights to transformers' names.

Which files count, and what a tied model's own LM head means, is as in `transformers.PreTrainedModel.from_pretrained`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.flax import load_file

from integration.on_jax.decoder import Decoder
from integration.on_jax.shape import read_shape
from integration.options.errors import UserError

Array = Any
_WHOLE = (jnp.float32, jnp.bfloat16, jnp.float16)
_EXPERTS = ("gate_proj", "up_proj", "down_proj")


def load_decoder(folder: str | Path) -> Decoder:
    """The model of a transformers checkpoint folder, in float32. UserError if it is none, or of another architecture."""
    folder = Path(folder)
    shape = read_shape(folder)
    found = _files(folder)
    head, embedding = found.get("lm_head.weight"), found.get("model.embed_tokens.weight")
    if shape.tie_word_embeddings and head is not None and embedding is not None and not _equal(head, embedding):
        shape = shape._replace(tie_word_embeddings=False)  # as transformers, which warns
    if shape.tie_word_embeddings and embedding is None and head is not None:
        found["model.embed_tokens.weight"] = head
    model = nnx.eval_shape(lambda: Decoder(shape, nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)
    for path, slot in nnx.to_flat_state(params):
        slot.set_value(_value(folder, found, path, slot.shape))
    nnx.update(model, params)
    return model


def named_weights(params: nnx.State[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Weights, or their gradients, with the names and the orientation that they have in a checkpoint of transformers."""
    return {name: np.asarray(x) for path, slot in nnx.to_flat_state(params) for name, x in _pieces(path, slot[...])}


def _value(folder: Path, found: dict[str, Array], path: tuple[Any, ...], shape: tuple[int, ...]) -> Array:
    """A parameter in float32."""
    parts = []
    for name, place in _pieces(path, np.broadcast_to(np.float32(0), shape)):
        weight = found.get(name)
        if weight is None or weight.shape != place.shape:
            raise UserError(f"--model: the weights of {folder} are of another model: {name} missing or misshapen")
        if weight.dtype not in _WHOLE:
            raise UserError(
                f"--model: {folder} is quantised: {name} is {weight.dtype}, and the JAX script trains whole weights"
            )
        parts.append(weight.astype(jnp.float32))
    if _is_stack(path):
        return jnp.stack([part.T for part in parts])
    return parts[0].T if path[-1] == "kernel" else parts[0]


def _pieces(path: tuple[Any, ...], x: Array) -> Iterator[tuple[str, Array]]:
    """Names and arrays of a parameter in a checkpoint, where matrices are [outputs, inputs] and each expert has its own."""
    parts = ["lm_head" if part == "head" else str(part) for part in path]
    if _is_stack(path):
        yield from ((".".join([*parts[:-1], str(e), parts[-1], "weight"]), x[e].T) for e in range(len(x)))
    else:
        yield ".".join([*parts[:-1], "bias" if path[-1] == "bias" else "weight"]), x.T if path[-1] == "kernel" else x


def _is_stack(path: tuple[Any, ...]) -> bool:
    return path[-1] in _EXPERTS


def _files(folder: Path) -> dict[str, Array]:
    """The tensors of model.safetensors; without it those of the files that its index names; and of no other file."""
    try:
        index = folder / "model.safetensors.index.json"
        if (folder / "model.safetensors").exists():
            return dict(load_file(folder / "model.safetensors"))
        shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        found: dict[str, Array] = {}
        for file in sorted(set(shards.values())):
            part = load_file(folder / file)
            if twice := sorted(found.keys() & part.keys()):
                raise UserError(f"--model: {folder} has {twice[0]} in two of the files that {index.name} names")
            found |= part
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"--model: {folder} does not hold the safetensors of a transformers checkpoint: {error}") from error
    return found


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool((a == b).all())
