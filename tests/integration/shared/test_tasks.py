"""Tasks hold questions out, score answers with their verifier, and reach the model through its template."""

from __future__ import annotations

import ast
import inspect
import random
import textwrap
from typing import Any

import numpy as np
import pytest

from integration.on_torch.small_model import build_tokenizer
from integration.options.errors import UserError
from integration.shared.prompts import Prompter, ends_of, left_pad
from integration.shared.tasks import EXECUTING, Task, load_task, parse_args


@pytest.fixture(scope="module")
def spelling() -> Task:
    """Words of three to five letters, to be spelled backward."""
    return load_task("spell_backward", ["min_word_len=3", "max_word_len=5"], seed=1, train_size=60, held_out_size=20)


def test_held_out_questions_are_disjoint_and_of_the_asked_number(spelling: Task) -> None:
    held_out, train = ({e.question for e in part} for part in (spelling.held_out, spelling.train))
    assert (len(held_out), len(train)) == (20, 60)
    assert not held_out & train


@pytest.mark.parametrize("name", ["spell_backward", "chain_sum", "gcd", "count_bits", "products", "letter_counting"])
def test_the_generators_own_solution_scores_one(name: str) -> None:
    task = load_task(name, [], seed=0, train_size=10, held_out_size=5)
    assert [task.score(e, f" {e.answer}\n") for e in task.train] == [1.0] * 10
    assert all(task.score(e, "certainly wrong, whatever was asked") < 0.5 for e in task.train)
    assert task.verifier_errors == 0


def test_a_verifier_that_fails_scores_zero_and_is_counted(spelling: Task) -> None:
    class Broken:
        def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
            raise ZeroDivisionError

    broken = Task("broken", spelling.train, spelling.held_out, Broken())
    assert broken.score(spelling.train[0], "anything") == 0.0
    assert broken.verifier_errors == 1


def test_an_epoch_shows_every_question_once_in_a_new_order(spelling: Task) -> None:
    epochs = [[e.question for s in range(12 * k, 12 * (k + 1)) for e in spelling.prompts_for(s, 5, seed=3)] for k in (0, 1)]
    assert all(sorted(epoch) == sorted(e.question for e in spelling.train) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] == [e.question for s in range(12) for e in spelling.prompts_for(s, 5, seed=3)]
    assert epochs[0] != [e.question for s in range(12) for e in spelling.prompts_for(s, 5, seed=4)]


def test_a_task_space_that_is_too_small_is_refused() -> None:
    with pytest.raises(UserError, match=r"--task: count_bits has only 7 distinct questions"):
        load_task("count_bits", ["min_n=1", "max_n=7"], seed=0, train_size=50, held_out_size=5)


def test_task_arguments_are_python_literals_or_strings() -> None:
    parsed = parse_args("--task-args", ["a=1", "b=0.5", "c=True", "d=('+','-')", "e=word", "f=x=y"])
    assert parsed == {"a": 1, "b": 0.5, "c": True, "d": ("+", "-"), "e": "word", "f": "x=y"}
    with pytest.raises(UserError, match=r"--task-args: expected key=value, got '1=2'"):
        parse_args("--task-args", ["1=2"])


def test_the_small_tokenizer_keeps_letters_single_and_loses_nothing(spelling: Task) -> None:
    tokenizer = build_tokenizer(spelling.train)
    for example in spelling.train:
        ids = tokenizer(example.question, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == example.question
        answer = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        assert len(answer) == len(str(example.answer)), "one token a letter"
        assert len(ids) < len(example.question) / 2, "boilerplate words are single tokens"


def test_no_character_is_dropped_by_the_small_tokenizer(spelling: Task) -> None:
    tokenizer = build_tokenizer(spelling.train)
    assert tokenizer.decode(tokenizer("Zebra #7!\n", add_special_tokens=False)["input_ids"]) == "Zebra #7!\n"
    assert tokenizer("☃", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_a_chat_prompt_ends_where_the_answer_begins(spelling: Task) -> None:
    tokenizer = build_tokenizer(spelling.train)
    prompter = Prompter(tokenizer, "chat", shots=(spelling.train[0],), instruction="Now!")
    text = tokenizer.decode(prompter.encode(spelling.train[1]))
    shot, asked = spelling.train[0], spelling.train[1]
    assert text == (f"<|user|>{shot.question} Now!<|assistant|>{shot.answer}<|end|><|user|>{asked.question} Now!<|assistant|>")


def test_a_plain_prompt_is_lines_of_question_and_answer(spelling: Task) -> None:
    tokenizer = build_tokenizer(spelling.train)
    prompter = Prompter(tokenizer, "plain", shots=(spelling.train[0],))
    shot, asked = spelling.train[0], spelling.train[1]
    assert tokenizer.decode(prompter.encode(asked)) == f"{shot.question} {shot.answer}\n{asked.question}"
    stops = prompter.stop_ids()
    assert tokenizer.eos_token_id in stops
    assert tokenizer("\n", add_special_tokens=False)["input_ids"][0] in stops
    assert len(stops) == 2


def test_left_padding_puts_every_prompt_against_the_answer() -> None:
    ids, attention = left_pad([[5], [6, 7, 8]], 0)
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert attention.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_a_tokenizer_without_a_template_cannot_chat(spelling: Task) -> None:
    tokenizer = build_tokenizer(spelling.train)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="--prompt chat: this tokenizer has no chat template; use --prompt plain"):
        Prompter(tokenizer, "chat")


def test_prompt_order_does_not_depend_on_global_random_state(spelling: Task) -> None:
    first = spelling.prompts_for(3, 5, seed=0)
    random.seed(99)
    assert spelling.prompts_for(3, 5, seed=0) == first


def executing(kind: type) -> bool:
    """Whether `score_answer`, or a method that it may call, passes something to what executes it."""
    names = {"eval", "exec", "parse_expr", "sympify"}
    source = textwrap.dedent(inspect.getsource(kind.score_answer))  # type: ignore[attr-defined]  # a class of reasoning-gym's
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return any((f.id if isinstance(f, ast.Name) else getattr(f, "attr", "")) in names for f in calls)


def test_tasks_whose_verifier_executes_the_answer_are_refused() -> None:
    """The list is what reasoning-gym's sources show; number_sorting executes its own solution only."""
    from reasoning_gym.factory import DATASETS  # noqa: PLC0415 (only this test wants it)

    assert {name for name, (kind, _) in DATASETS.items() if executing(kind)} == EXECUTING | {"number_sorting"}
    for name in EXECUTING:
        with pytest.raises(UserError, match=f"--task: the verifier of {name} in reasoning-gym executes"):
            load_task(name, (), seed=0, train_size=5, held_out_size=2)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -1.0, 2.0, None, "x"])
def test_a_score_that_is_no_number_in_the_unit_interval_counts_as_a_failure(spelling: Task, score: Any) -> None:
    class Odd:
        def score_answer(self, **_: Any) -> Any:
            return score

    odd = Task("odd", spelling.train, spelling.held_out, Odd())
    assert odd.score(odd.train[0], "nan") == 0.0
    assert odd.verifier_errors == 1


def test_a_response_ends_at_any_of_the_models_ends_which_are_not_read(spelling: Task) -> None:
    """As with a tokenizer whose end is <eos> and a model whose generation config names the end of a turn, too."""
    tokenizer = build_tokenizer(spelling.train)
    four, turn = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("4", "~"))
    prompter = Prompter(tokenizer, "chat", ends=ends_of([tokenizer.eos_token_id, *turn]))
    assert prompter.stop_ids() == sorted({tokenizer.eos_token_id, *turn})
    assert prompter.decode(np.array([four + turn]), np.ones((1, 2), dtype=bool)) == ["4"]
