"""A model in a GGUF file is loaded with its own weights, from the file or from its folder, and converted once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from integration.on_torch.small_model import build_tokenizer
from integration.options.errors import UserError
from integration.shared import gguf_files
from integration.shared.gguf_files import gguf_file, gguf_folder
from integration.shared.pretrained import load_pretrained
from integration.tasks.task import Example

CPU = torch.device("cpu")
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(folder: Path, *, without: str = "nothing") -> Any:
    """A small Qwen2 as llama.cpp writes it, with its tokenizer beside it; returns the model."""
    folder.mkdir()
    tokenizer = build_tokenizer([Example("What is 1 + 1?", "2", {})])
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=len(tokenizer), tie_word_embeddings=False)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    writer = gguf.GGUFWriter(folder / "small.gguf", "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(512)
    writer.add_vocab_size(config.vocab_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    with torch.no_grad():
        for name, values in model.named_parameters():
            values.add_(0.1 * torch.randn_like(values))
            place, kind = re.sub(r"^model\.layers\.(\d+)\.", r"blk.\1.", name).rsplit(".", 1)
            for ours, theirs in NAMES.items():
                place = re.sub(rf"(^|\.){re.escape(ours)}$", rf"\1{theirs}", place)
            if not name.endswith(without):
                writer.add_tensor(f"{place}.{kind}", values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer.save_pretrained(folder)
    return model


@torch.no_grad()
def test_its_weights_are_those_of_the_file_and_it_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ids = tmp_path / "model", torch.arange(5, 15)[None]
    model = write_gguf(folder)
    loaded, tokenizer = load_pretrained(str(folder / "small.gguf"), cache=tmp_path / "cache", device=CPU)
    torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=0)
    assert tokenizer("What")["input_ids"] == build_tokenizer([Example("What is 1 + 1?", "2", {})])("What")["input_ids"]
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in loaded.parameters())
    monkeypatch.setattr(gguf_files, "read_gguf", lambda _: pytest.fail("it was converted before"))
    again, _ = load_pretrained(str(folder), cache=tmp_path / "cache", device=CPU)
    assert torch.equal(again(input_ids=ids).logits, loaded(input_ids=ids).logits)


def test_what_is_no_gguf_model_is_said(tmp_path: Path) -> None:
    assert gguf_file("Qwen/Qwen3-0.6B") is None
    assert gguf_file(str(tmp_path)) is None
    with pytest.raises(UserError, match=r"^--model: there is no file .*lacking\.gguf"):
        gguf_file(str(tmp_path / "lacking.gguf"))
    (tmp_path / "a.gguf").write_bytes(b"GGUF no more")
    with pytest.raises(UserError, match=r"^--model: .*a\.gguf cannot be read as a causal language model: "):
        gguf_folder(tmp_path / "a.gguf", tmp_path / "cache")
    (tmp_path / "b.gguf").touch()
    with pytest.raises(UserError, match=r"has several GGUF files; name one of them: a\.gguf, b\.gguf"):
        gguf_file(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    assert gguf_file(str(tmp_path)) is None


def test_a_file_without_one_of_its_weights_is_refused(tmp_path: Path) -> None:
    """transformers makes up what is missing, and warns."""
    write_gguf(tmp_path / "model", without="layers.1.mlp.up_proj.weight")
    with pytest.raises(UserError, match=r"do not fit its config: model\.layers\.1\.mlp\.up_proj\.weight missing"):
        gguf_folder(tmp_path / "model" / "small.gguf", tmp_path / "cache")
