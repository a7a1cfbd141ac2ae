"""The estimate of a run's memory, beside what tensors take; a run that cannot fit is refused before anything is loaded."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gspo_scale import Work, activations
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma4TextConfig, GPT2Config, LlamaConfig, Qwen3Config, Qwen3MoeConfig

from integration.on_torch import memory
from integration.on_torch.adapters import add_adapter
from integration.on_torch.memory import CARDS, Estimate, check_memory, estimate, parameters, require_memory, sizes_of
from integration.on_torch.small_model import build_tokenizer
from integration.options.config import Config
from integration.options.errors import UserError
from integration.shared.pretrained import compute_in
from integration.tasks.prompts import Prompter, PromptStyle
from integration.tasks.task import Example, Task

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4, "vocab_size": 100}
MODELS = {
    "qwen3": Qwen3Config(**HEADS, hidden_size=128, intermediate_size=384, head_dim=32),
    "llama": LlamaConfig(**HEADS, hidden_size=128, intermediate_size=344),
    "gpt2": GPT2Config(n_embd=128, n_layer=4, n_head=4, vocab_size=100, bos_token_id=0, eos_token_id=0),
    "qwen3_moe": Qwen3MoeConfig(
        **HEADS,
        hidden_size=64,
        intermediate_size=192,
        moe_intermediate_size=48,
        num_experts=8,
        num_experts_per_tok=2,
        head_dim=16,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_activations_are_what_a_forward_pass_keeps(name: str, dtype: str) -> None:
    """Within a third; the estimate is rather too large."""
    config: Any = MODELS[name]
    model = AutoModelForCausalLM.from_config(config).eval()
    compute_in(model, getattr(torch, dtype))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    ids = torch.randint(100, (8, 128), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model.get_decoder()(input_ids=ids, use_cache=False)
    measured = sum(x.untyped_storage().nbytes() for x in kept.values())
    shape = sizes_of(config)
    counted = activations(shape, Work(dtype=dtype), ids.numel())  # type: ignore[arg-type]  # of the two that there are
    assert 0.9 <= counted / measured <= 1.34
    assert activations(shape, Work(checkpointing=True), ids.numel()) < 0.6 * activations(shape, Work(), ids.numel())


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_counted_without_making_them(name: str) -> None:
    model = AutoModelForCausalLM.from_config(MODELS[name])
    assert parameters(MODELS[name]) == sum(parameter.numel() for parameter in model.parameters())


def test_states_of_a_known_model() -> None:
    """Qwen3-0.6B: 596,049,920 parameters, the head tied to the embedding; 16 bytes each, 18 in bfloat16."""
    shape = Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip
    options = {"model": "Qwen/Qwen3-0.6B", "device": "cuda", "dtype": "bfloat16", "gradient_checkpointing": True}
    needed = estimate(shape, Config(**options, micro_batch_tokens=16384, max_new_tokens=128, prompts_per_rollout=32), 150)
    assert needed.states == 16 * 596_049_920
    assert needed.sampling == 256 * (278 * 28 * 2 * 8 * 128 * 2 + 151936 * 20) + 2 * 596_049_920
    require_memory(needed, int(24e9), "Qwen/Qwen3-0.6B", "cuda")
    page = (Path(__file__).parents[3] / "docs/training.md").read_text(encoding="utf-8")
    assert all(f"| {size / 2**30:.1f} GiB |" in page for size in needed)
    whole = estimate(shape, Config(model="x", max_new_tokens=2048, prompts_per_rollout=64), 200)
    with pytest.raises(UserError, match="smallest GPU for it: none of one GPU"):
        require_memory(whole, int(80e9), "x", "cuda")


@given(states=st.integers(0, 10**11), sampling=st.integers(0, 10**11), updating=st.integers(0, 10**11))
def test_the_named_card_is_the_smallest_that_is_large_enough(states: int, sampling: int, updating: int) -> None:
    needed = Estimate(states, sampling, updating)
    with pytest.raises(UserError, match=r"^--model: m needs about .* and the cuda has -0\.0 GiB; the smallest GPU") as refused:
        require_memory(needed, -1, "m", "cuda")
    named = re.search(r"for it: (\d+) GB", str(refused.value))
    fitting = [card for card in CARDS if needed.peak <= 0.95e9 * card]
    assert (int(named[1]) if named else None) == (fitting[0] if fitting else None)
    assert needed.peak == pytest.approx(1.1 * (states + max(sampling, updating)), abs=1), "a tenth more than the larger phase"
    require_memory(needed, needed.peak, "m", "cuda")
    if needed.peak:
        with pytest.raises(UserError, match="smallest GPU"):
            require_memory(needed, needed.peak - 1, "m", "cuda")


def test_layers_of_different_sizes_count_as_the_largest() -> None:
    """Gemma 4's global layers have wider heads, which transformers does not give for the model as a whole."""
    mixed: dict[str, Any] = {**HEADS, "hidden_size": 64, "intermediate_size": 96, "head_dim": 8}

    def kept(config: Any) -> int:
        return activations(sizes_of(config), Work(), 64)

    narrow, wide = (kept(Gemma4TextConfig(**mixed, global_head_dim=size)) for size in (8, 256))
    assert wide == kept(Gemma4TextConfig(**{**mixed, "head_dim": 256}, global_head_dim=256))
    assert wide > 2 * narrow


LLAMA = MODELS["llama"]
LONG: dict[str, Any] = {"model": "x", "max_new_tokens": 50, "mini_batches": 4, "eval_prompts": 1, "eval_samples": 1}


def test_adapters_alone_have_gradients_and_moments() -> None:
    """The frozen weights take 4 bytes each, 6 with their copies in bfloat16."""
    config = Config(**LONG, lora_rank=3)
    model: Any = AutoModelForCausalLM.from_config(LLAMA)
    count = sum(p.numel() for p in model.parameters())
    add_adapter(model, config)
    moving = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert 0 < moving < count / 4
    assert estimate(LLAMA, config, 50).states == 4 * count + 12 * moving
    assert estimate(LLAMA, Config(**LONG, lora_rank=3, dtype="bfloat16"), 50).states == 6 * count + 12 * moving
    assert estimate(LLAMA, Config(**LONG), 50).states == 16 * count


def test_an_update_has_the_tokens_of_a_micro_batch_and_its_options_say_how_many() -> None:
    """8 × 8 responses of 50 tokens to prompts of 50, in 4 mini-batches of 16 rows."""

    vocabulary, hidden = LLAMA.vocab_size, LLAMA.hidden_size

    def updating(**options: Any) -> int:
        return estimate(LLAMA, Config(**LONG, **options), 50).updating

    def expected(rows: int, numbers: int, work: Work = Work()) -> int:  # noqa: B008 (frozen)
        """Activations, a tile of logits, the head's gradient, and the mask: as booleans, and of every layer in numbers."""
        tile, gradient = 4 * rows * 50 * vocabulary, 4 * vocabulary * hidden
        return activations(sizes_of(LLAMA), work, rows * 100) + tile + gradient + rows * 100 * 100 * numbers

    layers, low, again = LLAMA.num_hidden_layers, Work(dtype="bfloat16"), Work(checkpointing=True)
    assert updating() == expected(16, 1 + 4 * layers)
    assert updating(micro_batch_size=4) == updating(micro_batch_tokens=400) == expected(4, 1 + 4 * layers)
    assert updating(gradient_checkpointing=True) == expected(16, 1 + 4, again) < updating() / 2
    assert updating(dtype="bfloat16") == expected(16, 1 + 2 * layers, low) < updating()
    assert updating(lora_rank=3) == updating() - 4 * vocabulary * hidden, "the head is frozen"


def test_of_several_processes_each_has_its_share() -> None:
    """Two, of which each updates half of the responses; only fsdp shares weights, gradients and moments out."""
    count = parameters(LLAMA)
    alone, copied = estimate(LLAMA, Config(**LONG), 50), estimate(LLAMA, Config(**LONG), 50, 2)
    shared = estimate(LLAMA, Config(**LONG, parallel="fsdp"), 50, 2)
    spread = estimate(LLAMA, Config(**LONG, context_parallel=2), 50, 2)
    assert (alone.states, copied.states, shared.states) == (16 * count, 20 * count, 8 * count), "DDP has buckets"
    assert copied.sampling == alone.sampling // 2
    assert shared.sampling == copied.sampling + 2 * count, "the whole model samples: the other half of it"
    assert copied.updating < 0.6 * alone.updating
    assert copied.updating < spread.updating < alone.updating, "all responses, half of their tokens, and keys of all"


def test_of_a_cpu_process_0_looks_at_the_memory_of_all(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    LLAMA.save_pretrained(tmp_path)
    tokenizer = build_tokenizer(task.train)
    tokenizer.save_pretrained(tmp_path)
    config, cpu = Config(**LONG | {"model": str(tmp_path)}), torch.device("cpu")
    one, each = (estimate(LLAMA, config, memory._longest_prompt(config, task, tokenizer), n).peak for n in (1, 2))
    assert each < one < 2 * each
    free = SimpleNamespace(available=(one + 2 * each) // 2, total=2**40)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    check_memory(config, task, str(tmp_path), cpu, 1, 2)
    assert capsys.readouterr().out.endswith(" in each process\n")
    with pytest.raises(UserError, match=r"^--model: .* the cpu has"):
        check_memory(config, task, str(tmp_path), cpu, 0, 2)
    check_memory(config, task, str(tmp_path), cpu, 0, 1)


def test_what_is_sampled_at_once_is_a_rollout_or_a_piece_of_an_evaluation() -> None:
    rollout = estimate(LLAMA, Config(**LONG), 50).sampling
    many = LONG | {"eval_prompts": 100, "train_size": 400}
    assert estimate(LLAMA, Config(**many | {"eval_samples": 2}), 50).sampling == rollout * 200 // 64
    assert estimate(LLAMA, Config(**many | {"eval_samples": 3}), 50).sampling == rollout * 256 // 64, "256 at a time"
    half = estimate(LLAMA, Config(**LONG, dtype="bfloat16"), 50).sampling
    keys = 64 * 100 * LLAMA.num_hidden_layers * 2 * 2 * 32
    assert (rollout, half) == (4 * keys + 64 * 100 * 20, 2 * keys + 64 * 100 * 20)


@pytest.mark.parametrize("shots", [0, 3])
@pytest.mark.parametrize("prompt", ["chat", "plain"])
def test_no_prompt_is_longer_than_was_estimated(task: Task, prompt: PromptStyle, shots: int) -> None:
    tokenizer = build_tokenizer(task.train)
    long = Example("Spell this word backward " * 30, "drawkcab", {})
    one_long = dataclasses.replace(task, train=[*task.train[:5], long, *task.train[5:]])
    config = Config(prompt=prompt, shots=shots, instruction="Spell this word " * 20)
    prompter = Prompter(tokenizer, prompt, (long,) * shots, config.instruction)
    longest = max(len(prompter.encode(example)) for example in one_long.train)
    assert longest > 200
    assert longest <= memory._longest_prompt(config, one_long, tokenizer) <= longest + 48 + 30 * (shots + 1)


def test_before_a_run_the_estimate_is_printed_and_what_cannot_fit_is_refused(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    LLAMA.save_pretrained(tmp_path)
    build_tokenizer(task.train).save_pretrained(tmp_path)
    config, cpu = Config(**LONG | {"model": str(tmp_path)}), torch.device("cpu")
    check_memory(config, task, str(tmp_path), cpu)
    printed = re.fullmatch(
        r"memory: (about 0\.\d GiB) \(states 0\.0, sampling 0\.0, updating 0\.\d\)\n", capsys.readouterr().out
    )
    assert printed
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**27, total=2**40))
    with pytest.raises(UserError, match=f"^--model: {tmp_path} needs {printed[1]} .* the cpu has 0.1 GiB; the smallest GPU"):
        check_memory(config, task, str(tmp_path), cpu)
    capsys.readouterr()
    check_memory(Config(), task, "smollm2", cpu)
    assert capsys.readouterr().out == "", "a model that fits everywhere"
    (tmp_path / "config.json").write_text("{")
    check_memory(config, task, str(tmp_path), cpu)  # loading it will say what is wrong
    assert capsys.readouterr().out.startswith("no estimate of the memory: ")
