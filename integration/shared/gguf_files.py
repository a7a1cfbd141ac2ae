"""Models in GGUF files: converted once to a folder of float32 weights, which is loaded like any other."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from integration.options.errors import UserError
from integration.shared.loading_info import require_all_weights
from integration.shared.model_cache import cached_model


def gguf_file(model: str) -> Path | None:
    """The GGUF file that --model names, itself or as the only model of its folder; None if it names something else.

    Raises UserError for a folder of several GGUF files and no other weights, and for a name that ends in .gguf and is no file.
    """
    path = Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"--model: there is no file {model}")
        return path
    found = sorted(path.glob("*.gguf")) if path.is_dir() and not any(path.glob("*.safetensors")) else []
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"--model: {model} has several GGUF files; name one of them: {names}")
    return found[0] if found else None


def gguf_folder(file: Path, cache: Path) -> Path:
    """The folder of its weights in float32 and its tokenizer, made if the cache has none of a file with this content.

    Quantised weights stay as exact as they were; what training changes is no longer quantised.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()

    def convert() -> tuple[Any, Any]:
        print(f"converting {file.name} to float32 weights in {cache} (once, a minute for 100 MB)", flush=True)
        return read_gguf(file)

    return cached_model(cache, file.stem, {"gguf": digest}, convert)


def read_gguf(file: Path) -> tuple[Any, Any]:
    """(model in float32, tokenizer), of which one beside the file goes first. UserError if transformers cannot read it."""
    try:
        own = {} if (file.parent / "tokenizer.json").exists() else {"gguf_file": file.name}
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **own)
        how = {"gguf_file": file.name, "dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
        pair: Any = AutoModelForCausalLM.from_pretrained(file.parent, **how)
    except Exception as error:  # a damaged or unknown file raises anything; gguf itself may be missing
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--model: {file} cannot be read as a causal language model: {first}") from error
    model, info = pair
    require_all_weights(info, str(file))
    # The loader dequantised the weights but leaves the flags, and a "quantised" model refuses to be saved.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer
