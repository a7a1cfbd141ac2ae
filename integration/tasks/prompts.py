"""From questions to token ids and back: the tokenizer's chat template, or plain few-shot text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, takewhile
from typing import Any

import numpy as np

from integration.options.errors import UserError
from integration.options.words import PromptStyle
from integration.tasks.task import Example, Task


@dataclass(frozen=True)
class Prompter:
    """The form of a question's prompt, and the end of its answer."""

    tokenizer: Any
    style: PromptStyle
    """chat: the tokenizer's template, one user turn; plain: `question answer` lines, the answer ends at a newline."""
    shots: tuple[Example, ...] = ()
    """Solved examples in front of the question (earlier turns of the chat, or lines)."""
    instruction: str = ""
    """Appended to each question."""
    template_args: tuple[tuple[str, Any], ...] = ()
    """Extra arguments of the chat template, e.g. enable_thinking=False for Qwen3."""
    ends: tuple[int, ...] = ()
    """Ids that end a response beside the tokenizer's own: the model's generation config may name several (end of a turn)."""

    def __post_init__(self) -> None:
        if self.style == "chat" and getattr(self.tokenizer, "chat_template", None) is None:
            raise UserError("--prompt chat: this tokenizer has no chat template; use --prompt plain")
        if any(shot.answer is None for shot in self.shots):
            raise UserError("--shots: this task has no solutions to show; use --shots 0")

    def encode(self, example: Example) -> list[int]:
        """Token ids of the prompt."""
        if self.style == "plain":
            lines = [f"{self._ask(shot)} {shot.answer}\n" for shot in self.shots]
            return self._open("".join(lines) + self._ask(example))
        messages = []
        for shot in self.shots:
            messages += [{"role": "user", "content": self._ask(shot)}, {"role": "assistant", "content": shot.answer}]
        messages.append({"role": "user", "content": self._ask(example)})
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **dict(self.template_args)
            )
        except Exception as error:  # whatever a template raises
            raise UserError(f"--prompt chat: the tokenizer's chat template fails: {error}; use --prompt plain") from error
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _open(self, text: str) -> list[int]:
        """Token ids of a text that goes on: without the end that some tokenizers put after every text (add_eos_token)."""
        ids = list(self.tokenizer(text)["input_ids"])
        ends = {self.tokenizer.eos_token_id, self.tokenizer.sep_token_id, *self.ends} - {None}
        if ids[-1] not in ends:
            return ids
        own = self.tokenizer(text, add_special_tokens=False)["input_ids"]  # which may end so itself
        return ids[: len(ids) - _ends_last(ids, ends) + _ends_last(own, ends)]

    def _ask(self, example: Example) -> str:
        return f"{example.question} {self.instruction}".strip()

    def stop_ids(self) -> list[int]:
        """Ids that end a response, in ascending order; the ending token belongs to the response."""
        if self.tokenizer.eos_token_id is None:
            raise UserError("--model: this tokenizer has no end-of-sequence token")
        stops = {int(self.tokenizer.eos_token_id), *self.ends}
        if self.style == "plain":
            ids = range(len(self.tokenizer))
            stops |= {i for i, piece in enumerate(self.tokenizer.batch_decode([[i] for i in ids])) if "\n" in piece}
        return sorted(stops)

    def decode(self, tokens: Any, mask: Any) -> list[str]:
        """Texts of responses, without special tokens and what ends them: [N, T] ids and boolean mask of any library."""
        ends = {self.tokenizer.eos_token_id, *self.ends}  # which need not be special ones
        pairs = zip(tokens.tolist(), mask.tolist(), strict=True)
        rows = [[token for token in compress(*pair) if token not in ends] for pair in pairs]
        return [str(text) for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]


def _ends_last(ids: Sequence[int], ends: set[int]) -> int:
    """How many ids from the last one on are ends."""
    return sum(1 for _ in takewhile(ends.__contains__, reversed(ids)))


def ends_of(generation: Any) -> tuple[int, ...]:
    """The `eos_token_id` of a model's config, which may be missing, a number or a list; UserError for anything else.

    >>> ends_of([1, 106]), ends_of(2), ends_of(None)
    ((1, 106), (2,), ())
    """
    ends = [] if generation is None else generation if isinstance(generation, list) else [generation]
    if not all(isinstance(end, int) and not isinstance(end, bool) and abs(end) < 2**31 for end in ends):
        raise UserError(
            f"--model: eos_token_id in generation_config.json: expected one or more token ids, got {generation!r:.200}"
        )
    return tuple(ends)


def require_room(config: Any, prompter: Prompter, task: Task, new_tokens: int) -> None:
    """UserError if a prompt and its response need more positions than the model's config names; some name none."""
    positions = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    longest = max(len(prompter.encode(example)) for example in [*task.train, *task.held_out])
    if isinstance(positions, int) and 0 < positions < longest + new_tokens:
        raise UserError(
            f"--model: it has {positions} positions, and the longest prompt of {task.name} has {longest} tokens, with "
            f"--max-new-tokens {new_tokens} {longest + new_tokens}; lower --max-new-tokens, --shots or the sizes in --task-args"
        )


def require_known_tokens(vocabulary: int, prompter: Prompter, task: Task) -> None:
    """UserError if a prompt, or its padding, has a token that the model has no embedding for; it has `vocabulary`."""
    tokenizer = prompter.tokenizer
    if max(tokenizer.get_vocab().values(), default=0) < vocabulary:
        return
    prompts = (prompter.encode(example) for example in [*task.train, *task.held_out])
    highest = max((tokenizer.pad_token_id or 0, *map(max, prompts)))
    if highest >= vocabulary:
        raise UserError(
            f"--model: its tokenizer has more tokens than the model: prompts or their padding have {highest}, "
            f"{tokenizer.decode([highest])!r}, and the model has embeddings up to {vocabulary - 1}; resize its embeddings "
            "(resize_token_embeddings) and train those first, or use the tokenizer that it came with"
        )


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as [N, P] ids and attention mask, int64, padded on the left.

    >>> [x.tolist() for x in left_pad([[5], [6, 7]], pad_id=0)]
    [[[0, 5], [6, 7]], [[0, 1], [1, 1]]]
    """
    width = max(len(row) for row in rows)
    ids = np.array([[pad_id] * (width - len(row)) + list(row) for row in rows], dtype=np.int64)
    attention = np.array([[0] * (width - len(row)) + [1] * len(row) for row in rows], dtype=np.int64)
    return ids, attention
