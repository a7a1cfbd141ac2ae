"""Prompts that a tokenizer cannot make, or a model cannot read, are refused; responses end at every end that is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from integration.on_torch.small_model import build_tokenizer
from integration.options.errors import UserError
from integration.tasks.prompts import Prompter, ends_of, require_known_tokens, require_room
from integration.tasks.task import Example, Task, load_task


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("spell_backward", ["min_word_len=2", "max_word_len=6"], seed=2, train_size=40, held_out_size=10)


def config(positions: int | None) -> Any:
    text = SimpleNamespace(max_position_embeddings=positions)
    return SimpleNamespace(get_text_config=lambda **_: text)


def test_prompts_longer_than_the_positions_are_refused_with_both_numbers(task: Task) -> None:
    prompter = Prompter(build_tokenizer(task.train), "chat")
    longest = max(len(prompter.encode(example)) for example in [*task.train, *task.held_out])
    require_room(config(longest + 7), prompter, task, 7)
    require_room(config(None), prompter, task, 10**6)
    with pytest.raises(UserError, match=rf"^--model: it has {longest + 6} positions, .* {longest} tokens, .* 7 {longest + 7};"):
        require_room(config(longest + 6), prompter, task, 7)


def test_a_template_that_refuses_is_one_sentence(task: Task) -> None:
    tokenizer = build_tokenizer(task.train)
    tokenizer.chat_template = "{{ raise_exception('no turns here') }}"
    with pytest.raises(UserError, match=r"^--prompt chat: the tokenizer's chat template fails: no turns here; use"):
        Prompter(tokenizer, "chat").encode(task.train[0])


def test_the_ends_of_the_generation_config_end_a_response_and_are_not_in_its_text(task: Task) -> None:
    """As Gemma 3's end of a turn, 106, beside the tokenizer's own eos."""
    tokenizer = build_tokenizer(task.train)
    turn = tokenizer.convert_tokens_to_ids("Z")
    prompter = Prompter(tokenizer, "chat", ends=ends_of([tokenizer.eos_token_id, turn]))
    assert set(prompter.stop_ids()) == {tokenizer.eos_token_id, turn}
    ids = np.array([tokenizer("4Z", add_special_tokens=False)["input_ids"]])
    assert prompter.decode(ids, ids >= 0) == ["4"]
    assert Prompter(tokenizer, "chat").decode(ids, ids >= 0) == ["4Z"]


@pytest.mark.parametrize("template", ["$A", "<|user|> $A", "<|user|> $A <|end|>", "$A <|pad|> <|end|>"])
def test_a_plain_prompt_is_open_also_if_the_tokenizer_ends_every_text(task: Task, template: str) -> None:
    """As after supervised fine-tuning with add_eos_token: the model would answer to a text that is over."""
    tokenizer = build_tokenizer(task.train)
    bare = tokenizer("spell cat", add_special_tokens=False)["input_ids"]
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<|user|>", "<|pad|>", "<|end|>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    prompter = Prompter(tokenizer, "plain", ends=(special[1][1],))
    ids = prompter.encode(Example("spell cat", "tac", {}))
    assert ids == ([special[0][1]] if "user" in template else []) + bare
    ended = Example("spell cat <|end|>", "tac", {})  # its own words stay
    assert prompter.encode(ended)[-2:] == [bare[5], special[2][1]]


def test_a_prompt_with_a_token_that_the_model_does_not_know_is_refused(task: Task) -> None:
    tokenizer = build_tokenizer(task.train)
    known = len(tokenizer)
    require_known_tokens(known, Prompter(tokenizer, "chat"), task)
    tokenizer.add_tokens(["hello"])
    require_known_tokens(known, Prompter(tokenizer, "chat"), task)  # a token that no prompt has
    with pytest.raises(
        UserError, match=rf"^--model: its tokenizer has more tokens .* have {known}, 'hello', .* to {known - 1};"
    ):
        require_known_tokens(known, Prompter(tokenizer, "chat", instruction="hello"), task)
    tokenizer.add_special_tokens({"pad_token": "<|new pad|>"})
    with pytest.raises(UserError, match=rf"prompts or their padding have {known + 1}, '<\|new pad\|>'"):
        require_known_tokens(known, Prompter(tokenizer, "chat"), task)
