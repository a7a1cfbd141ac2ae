"""`--model small` and `small-moe`: a Qwen3 or Qwen3-MoE that is made here and warmed up on the task, without a download.

Supervised steps on training questions teach it the form of the answers, and stop at an accuracy that RL can improve.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from integration.on_torch.qwen3 import ExpertSizes, Qwen3Sizes, build_qwen3
from integration.on_torch.sampling.rollout import Sampler
from integration.options.errors import UserError
from integration.options.sizes import Experts, WarmUp
from integration.shared.model_cache import cached_model
from integration.shared.pretrained import load_pretrained
from integration.tasks.prompts import Prompter
from integration.tasks.task import CORRECT, Example, Task

PAD, UNKNOWN, USER, ASSISTANT, END = "<|pad|>", "<|unknown|>", "<|user|>", "<|assistant|>", "<|end|>"
PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))
CHAT = (
    "{% for m in messages %}{{ '" + USER + "' if m.role == 'user' else '" + ASSISTANT + "' }}{{ m.content }}"
    "{% if m.role == 'assistant' %}" + END + "{% endif %}{% endfor %}{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


def load_small(
    task: Task,
    warm_up: WarmUp,
    experts: Experts | None = None,
    *,
    cache: Path,
    seed: int,
    max_new_tokens: int,
    device: torch.device,
) -> tuple[Any, Any]:
    """(model in evaluation mode, tokenizer): as `make_small`, loaded."""
    folder = make_small(task, warm_up, experts, cache=cache, seed=seed, max_new_tokens=max_new_tokens, device=device)
    return load_pretrained(str(folder), cache=cache, device=device)


def make_small(
    task: Task,
    warm_up: WarmUp,
    experts: Experts | None = None,
    *,
    cache: Path,
    seed: int,
    max_new_tokens: int,
    device: torch.device,
) -> Path:
    """The folder of a model that was warmed up on the task's training questions, made if the cache has none.

    With `experts` it is a mixture of them, else dense. Raises UserError if the task has no solutions to learn from, or the
    warm-up does not reach its target.
    """
    tokenizer = build_tokenizer(task.train)
    sizes = small_sizes(tokenizer, warm_up, experts)

    def make() -> tuple[Any, Any]:
        model = build_qwen3(sizes, seed).to(device)
        _warm_up(model, tokenizer, task, warm_up, seed=seed, max_new_tokens=max_new_tokens, device=device)
        return model, tokenizer

    questions = json.dumps([[example.question, example.answer] for example in task.train])
    recipe = {
        "task": [task.name, *task.args],
        "questions": hashlib.sha256(questions.encode()).hexdigest(),
        "sizes": asdict(sizes),
        "warm_up": asdict(warm_up),
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "device": device.type,
    }
    return cached_model(cache, f"{'small' if experts is None else 'small-moe'}-{task.name}", recipe, make)


def build_tokenizer(examples: list[Example]) -> Any:
    """A tokenizer of single characters, with a token for every word that most questions share."""
    characters = sorted({c for e in examples for c in f"{e.question}{e.answer}"} | set(PRINTABLE))
    vocabulary = {token: index for index, token in enumerate([PAD, UNKNOWN, USER, ASSISTANT, END, *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    words = Counter(word for e in examples for word in {w.strip(".,:;?!()") for w in e.question.split()} if len(word) > 1)
    boilerplate = sorted(word for word, seen in words.items() if seen > 0.5 * len(examples))
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in boilerplate])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, clean_up_tokenization_spaces=False
    )
    fast.add_special_tokens({"additional_special_tokens": [USER, ASSISTANT]})
    fast.chat_template = CHAT
    return fast


def small_sizes(tokenizer: Any, warm_up: WarmUp, experts: Experts | None = None) -> Qwen3Sizes:
    """A Qwen3 with tied embeddings, by default about 1.2 M parameters; with `experts` a Qwen3-MoE, about 7.7 M."""
    width = 3 * warm_up.hidden
    return Qwen3Sizes(
        vocabulary=len(tokenizer),
        layers=warm_up.layers,
        hidden=warm_up.hidden,
        feed_forward=width,
        heads=4,
        key_value_heads=2,
        head=warm_up.hidden // 4,
        experts=None if experts is None else ExpertSizes(experts.count, experts.top_k, width // experts.top_k),
        positions=512,
        tied=True,
        pad_id=tokenizer.pad_token_id,
        end_id=tokenizer.eos_token_id,
    )


def _warm_up(
    model: Any, tokenizer: Any, task: Task, warm_up: WarmUp, *, seed: int, max_new_tokens: int, device: torch.device
) -> None:
    if any(e.answer is None for e in task.train):
        raise UserError(f"--model small: the task {task.name} has no solutions to warm up on; use a pretrained model")
    prompter = Prompter(tokenizer, "chat")
    stop_ids = torch.tensor(prompter.stop_ids(), device=device)
    sampler = Sampler(model, prompter, max_new_tokens, 1.0, device, stop_ids)
    generator = torch.Generator().manual_seed(seed)
    drawing = torch.Generator(device).manual_seed(seed)
    checked = task.train[: warm_up.check_prompts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=warm_up.lr)
    accuracy = 0.0
    print(f"warming the model up, once, until {warm_up.target:.0%} of its answers are right", flush=True)
    with tqdm(desc="warm-up", unit=" steps") as bar:  # without a total: it ends at an accuracy, mostly long before max_steps
        for step in range(1, warm_up.max_steps + 1):
            chosen = torch.randint(len(task.train), (warm_up.batch_size,), generator=generator).tolist()
            _supervised_step(model, prompter, [task.train[i] for i in chosen], optimizer, device)
            bar.update()
            if step % warm_up.check_every == 0:
                answers = sampler.draw(checked, 1, drawing)
                texts = prompter.decode(answers.tokens, answers.mask)
                accuracy = sum(score >= CORRECT for score in task.scores(checked, texts)) / len(checked)
                bar.set_postfix(accuracy=f"{accuracy:.2f}", target=warm_up.target)
                if accuracy >= warm_up.target:
                    return
    raise UserError(
        f"--model small: warm-up reached {accuracy:.0%} after {warm_up.max_steps} steps, not {warm_up.target:.0%}; "
        "choose an easier --task-args or a lower --warm-up.target"
    )


def _supervised_step(model: Any, prompter: Prompter, examples: list[Example], optimizer: Any, device: torch.device) -> None:
    prompts = [prompter.encode(e) for e in examples]
    answers = [prompter.tokenizer(f"{e.answer}{END}", add_special_tokens=False)["input_ids"] for e in examples]
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    pad = prompter.tokenizer.pad_token_id
    ids, labels, attention = [], [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        left = width - len(prompt) - len(answer)
        ids.append([pad] * left + prompt + answer)
        labels.append([-100] * (left + len(prompt)) + answer)
        attention.append([0] * left + [1] * (width - left))
    inputs, targets, mask = (torch.tensor(x, device=device) for x in (ids, labels, attention))
    place = (mask.cumsum(-1) - 1).clamp(min=0)
    balanced = {"output_router_logits": True} if hasattr(model.config, "num_experts") else {}  # adds the balancing loss
    model(input_ids=inputs, attention_mask=mask, position_ids=place, labels=targets, **balanced).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
