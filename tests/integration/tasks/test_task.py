"""Tasks hold questions out, score answers with their verifier, and reach the model through its template."""

from __future__ import annotations

import random
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs.in_process import in_process

from integration.on_torch.small_model import build_tokenizer
from integration.options.errors import UserError
from integration.rewards.sources import Direct
from integration.tasks.prompts import Prompter, ends_of, left_pad
from integration.tasks.task import Example, Task, load_task


@pytest.fixture(scope="module")
def spelling() -> Task:
    """Words of three to five letters, to be spelled backward."""
    return in_process(
        load_task("spell_backward", ["min_word_len=3", "max_word_len=5"], seed=1, train_size=60, held_out_size=20)
    )


def test_held_out_questions_are_disjoint_and_of_the_asked_number(spelling: Task) -> None:
    held_out, train = ({e.question for e in part} for part in (spelling.held_out, spelling.train))
    assert (len(held_out), len(train)) == (20, 60)
    assert not held_out & train


@pytest.mark.parametrize("name", ["spell_backward", "chain_sum", "gcd", "count_bits", "products", "letter_counting"])
def test_the_generators_own_solution_scores_one(name: str) -> None:
    task = in_process(load_task(name, [], seed=0, train_size=10, held_out_size=5))
    assert [task.score(e, f" {e.answer}\n") for e in task.train] == [1.0] * 10
    assert all(task.score(e, "certainly wrong, whatever was asked") < 0.5 for e in task.train)
    assert not any(v.failure for v in task.verdicts(task.train, ["x"] * 10))


class Odd:
    """A verifier whose score is anything."""

    def __init__(self, score: Any) -> None:
        self._score = score

    def score(self, entry: dict[str, Any], text: str) -> Any:
        """It, or it is raised."""
        if isinstance(self._score, BaseException):
            raise self._score
        return self._score


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -1.0, 2.0, None, "x", ZeroDivisionError(), KeyboardInterrupt()])
def test_a_score_that_is_no_number_in_the_unit_interval_counts_as_a_failure(spelling: Task, score: Any) -> None:
    odd = Task("odd", spelling.train, spelling.held_out, Direct(Odd(score)))
    assert odd.verdicts(odd.train[:1], ["12"]) == [(0.0, "error")]
    assert odd.score(odd.train[0], "12") == 0.0


def test_an_epoch_shows_every_question_once_in_a_new_order(spelling: Task) -> None:
    epochs = [[e.question for s in range(12 * k, 12 * (k + 1)) for e in spelling.prompts_for(s, 5, seed=3)] for k in (0, 1)]
    assert all(sorted(epoch) == sorted(e.question for e in spelling.train) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] == [e.question for s in range(12) for e in spelling.prompts_for(s, 5, seed=3)]
    assert epochs[0] != [e.question for s in range(12) for e in spelling.prompts_for(s, 5, seed=4)]


@given(st.integers(1, 40), st.integers(0, 300), st.integers(1, 9), st.integers(0, 5))
def test_the_prompts_of_a_step_are_the_next_ones_of_shuffled_epochs(size: int, step: int, count: int, seed: int) -> None:
    """As one long list of shuffled epochs says it. This order is kept in run folders: a resumed run goes on in it."""
    task = Task("numbers", [Example(str(i), None, {}) for i in range(size)], [], Direct(Odd(1.0)))
    order = [i for epoch in range((step + 1) * count // size + 1) for i in Random(f"{seed}:{epoch}").sample(range(size), size)]
    expected = order[step * count : (step + 1) * count]
    assert [int(e.question) for e in task.prompts_for(step, count, seed)] == expected


def test_an_epoch_is_shuffled_once(spelling: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to be shuffled for every prompt: a hundred thousand questions take a tenth of a second."""
    made: list[object] = []
    monkeypatch.setattr("integration.tasks.task.random.Random", lambda x: made.append(x) or Random(x))
    for step in range(24):
        spelling.prompts_for(step, 5, seed=12345)
    assert made == ["12345:0", "12345:1"]


def test_a_task_space_that_is_too_small_is_refused() -> None:
    with pytest.raises(UserError, match=r"--task: count_bits has only 7 distinct questions"):
        load_task("count_bits", ["min_n=1", "max_n=7"], seed=0, train_size=50, held_out_size=5)


def test_a_composite_draws_from_its_parts_and_judges_each_by_its_own_verifier() -> None:
    parts = 'datasets=[{"name": "chain_sum", "weight": 2, "config": {"max_terms": 3}}, {"name": "spell_backward"}]'
    task = in_process(load_task("composite", [parts], seed=0, train_size=60, held_out_size=20))
    kinds = [e.entry["metadata"]["source_dataset"] for e in task.train]
    assert 20 < kinds.count("chain_sum") < 55
    assert set(kinds) == {"chain_sum", "spell_backward"}
    assert task.scores(task.train, [str(e.answer) for e in task.train]) == [1.0] * 60


def test_a_composite_without_parts_is_refused_with_an_example() -> None:
    with pytest.raises(UserError, match=r"--task-args: composite does not accept its defaults: .*datasets=\[\{"):
        load_task("composite", [], seed=0, train_size=5, held_out_size=2)


def test_runs_of_different_seeds_have_different_questions() -> None:
    """reasoning-gym draws question i from seed + i: seeds 0 and 1 used to share all but one."""
    first, second = ({e.question for e in load_task("gcd", [], seed=s, train_size=60, held_out_size=9).train} for s in (0, 1))
    assert len(first & second) < 3


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


def test_a_response_ends_at_any_of_the_models_ends_which_are_not_read(spelling: Task) -> None:
    """As with a tokenizer whose end is <eos> and a model whose generation config names the end of a turn, too."""
    tokenizer = build_tokenizer(spelling.train)
    four, turn = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("4", "~"))
    prompter = Prompter(tokenizer, "chat", ends=ends_of([tokenizer.eos_token_id, *turn]))
    assert prompter.stop_ids() == sorted({tokenizer.eos_token_id, *turn})
    assert prompter.decode(np.array([four + turn]), np.ones((1, 2), dtype=bool)) == ["4"]
