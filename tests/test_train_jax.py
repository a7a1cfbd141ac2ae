"""One training step in JAX: sampling and log-probs are those of transformers' forward pass, updates are torch's AdamW."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import learner_jax
import numpy as np
import pytest
import rollout_jax
import torch
from config import Config
from errors import TrainingFailure, UserError
from jax_checkpoint import restore_checkpoint, write_checkpoint
from learner_jax import Learner
from measure import Rollup
from prompts import Prompter
from qwen3_jax import load_qwen3, named_weights
from rollout import evaluate
from rollout_jax import Responses, Sampler, bucket, random_keys, resized
from run_folder import RunFolder
from small_model import WarmUp, build_model, build_tokenizer
from tasks import Task, load_task
from train_jax import mini_batch, one_rollout, update
from trainer_jax import Trainer, refuse_what_is_not_here

from gspo_core import Plan


@pytest.fixture(autouse=True)
def _promotion() -> Iterator[None]:
    """optax multiplies float32 by int32."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def task() -> Task:
    """Short words backward: prompts and answers of different lengths."""
    return load_task("spell_backward", ["min_word_len=2", "max_word_len=6"], seed=2, train_size=40, held_out_size=10)


@pytest.fixture(scope="module")
def saved(task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A small random model of transformers, its tokenizer, and the folder it was saved to."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), build_tokenizer(task.train)
    model = build_model(len(tokenizer), WarmUp(layers=2, hidden=32), 0, tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10.0)  # logits of order one: some tokens are likelier than others
    model.save_pretrained(folder)
    return model, tokenizer, folder


def make_trainer(task: Task, saved: tuple[Any, Any, Path], folder: Path, **options: Any) -> Trainer:
    """A trainer on it."""
    config = Config(model="small", group_size=4, prompts_per_rollout=4, max_new_tokens=6, lr=1e-3)
    config = dataclasses.replace(config, clip_low=0.01, clip_high=0.01, **options)
    learner = Learner(
        load_qwen3(saved[2]),
        lr=config.lr,
        lr_warm_up=config.lr_warm_up,
        max_grad_norm=config.max_grad_norm,
        temperature=config.temperature,
    )
    sampler = Sampler(learner, Prompter(saved[1], "chat"), config.max_new_tokens, config.temperature)
    run = RunFolder(folder, keep_checkpoints=1)
    return Trainer(config, run, task, learner, config.build_objective(), sampler, saved[2] / "config.json")


@pytest.fixture
def trainer(task: Task, saved: tuple[Any, Any, Path], tmp_path: Path) -> Trainer:
    """A fresh trainer."""
    return make_trainer(task, saved, tmp_path)


def draw(trainer: Trainer, count: int = 4, seed: int = 0) -> Responses:
    """Responses to four questions."""
    return trainer.sampler.draw(trainer.task.train[:4], count, random_keys(seed, 0))


def sequence(batch: Responses, row: int) -> tuple[Any, Any]:
    """(prompt, response) of a row without padding, for torch."""
    prompt, tokens = batch.prompt_ids[row][batch.prompt_mask[row]], batch.tokens[row][batch.mask[row]]
    return torch.tensor(prompt, dtype=torch.long), torch.tensor(tokens, dtype=torch.long)


def their_logits(model: Any, batch: Responses, row: int) -> Any:
    """[|y|, V] of transformers, at the positions that predict the response."""
    prompt, tokens = sequence(batch, row)
    with torch.no_grad():
        return model(input_ids=torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1].double()


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_log_probs_are_those_of_transformers(task: Task, saved: Any, tmp_path: Path, temperature: float) -> None:
    trainer = make_trainer(task, saved, tmp_path, temperature=temperature)
    batch = draw(trainer, 16)
    lengths = batch.mask.sum(-1)
    assert lengths.min() < lengths.max(), "all responses have one length: padding is not tested"
    assert len(np.unique(batch.prompt_mask.sum(-1))) > 1, "all prompts have one length"
    order = np.array([63, *np.argsort(lengths)[:3], 0])
    part = batch.rows(order)
    assert part.mask.shape == (8, 8)
    logp = np.asarray(trainer.learner.log_probs(part)[0])
    for place, row in enumerate(order):
        logits = their_logits(saved[0], batch, row) / temperature
        expected = torch.log_softmax(logits, -1).gather(-1, sequence(batch, row)[1][:, None])[:, 0].numpy()
        np.testing.assert_allclose(logp[place][part.mask[place]], expected, atol=1e-5, rtol=0)
    assert (logp[~part.mask] == 0).all()
    assert not part.mask[len(order) :].any()


def test_a_response_ends_with_its_stop_token_and_holds_no_other(trainer: Trainer) -> None:
    batch = draw(trainer, 16)
    stops = set(trainer.sampler.prompter.stop_ids(torch.device("cpu")).tolist())
    ended = 0
    for tokens, mask in zip(batch.tokens, batch.mask, strict=True):
        own = tokens[mask].tolist()
        assert mask.tolist() == sorted(mask.tolist(), reverse=True), "no holes"
        assert not stops & set(own[:-1])
        ended += own[-1] in stops
        assert own[-1] in stops or len(own) == trainer.config.max_new_tokens
    assert 0 < ended < len(batch.tokens)


def test_greedy_sampling_is_the_argmax_of_transformers(trainer: Trainer, saved: Any) -> None:
    batch = trainer.sampler.draw(trainer.task.train[:4], 1, None)
    assert len(batch.tokens) == 4
    for row in range(4):
        assert their_logits(saved[0], batch, row).argmax(-1).tolist() == sequence(batch, row)[1].tolist()


def test_sampled_tokens_follow_the_models_distribution(task: Task, saved: Any, tmp_path: Path) -> None:
    trainer = make_trainer(task, saved, tmp_path, temperature=0.8, max_new_tokens=1)
    count = 4000
    batch = trainer.sampler.draw(task.train[:1], count, random_keys(0, 0))
    expected = torch.softmax(their_logits(saved[0], batch, 0)[0] / 0.8, -1).numpy()
    seen = np.bincount(batch.tokens[:, 0], minlength=len(expected)) / count
    # five standard errors of the most uncertain frequency
    assert np.abs(seen - expected).max() < 5 * (0.25 / count) ** 0.5
    assert 0.05 < seen.max() < 0.9, "the distribution is a point, or flat: nothing is tested"


def test_random_keys_are_a_function_of_seed_and_step(trainer: Trainer) -> None:
    assert (draw(trainer, seed=3).tokens == draw(trainer, seed=3).tokens).all()
    keys = [k for seed, step in ((0, 0), (0, 1), (1, 0)) for k in itertools.islice(random_keys(seed, step), 3)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 9
    first = evaluate(trainer.task, trainer.sampler, samples=2, seed=5)
    draw(trainer)
    assert first == evaluate(trainer.task, trainer.sampler, samples=2, seed=5)
    assert len(first.sampled) == len(first.greedy) == 10


def test_shapes_come_in_buckets_and_compile_once_each(trainer: Trainer) -> None:
    batch, random = draw(trainer), np.random.default_rng(0)
    shapes = set()
    before = learner_jax._log_probs._cache_size()
    for size in random.integers(1, 17, 20):
        part = batch.rows(random.permutation(16)[:size])
        shapes.add((part.prompt_mask.shape, part.mask.shape))
        trainer.learner.log_probs(part)
    assert len(shapes) == 2, "8 and 16 rows; prompts and responses fit one bucket each"
    assert learner_jax._log_probs._cache_size() - before <= len(shapes)
    compiled = rollout_jax.generate._cache_size()
    for prompts in (1, 3, 8):
        trainer.sampler.draw(trainer.task.train[:prompts], 4, random_keys(0, prompts))
    assert rollout_jax.generate._cache_size() - compiled <= 1
    assert [bucket(n) for n in (1, 8, 9, 32, 33)] == [8, 8, 16, 32, 64]
    assert resized(np.array([[1, 2, 3]]), (2, -2)).tolist() == [[2, 3], [0, 0]]
    assert resized(np.array([1]), (-3,)).tolist() == [0, 0, 1]


def gradients(trainer: Trainer, responses: Responses, advantages: Any, old: Any) -> dict[str, Any]:
    """Gradients of one update, instead of its step."""
    found: list[Any] = []
    trainer.learner.step = found.append  # type: ignore[method-assign]
    batch = mini_batch(trainer, responses, advantages, Plan(advantages), np.arange(len(advantages)))
    live = np.arange(len(advantages))[advantages != 0]
    size = trainer.config.micro_batch_size or len(advantages)
    pieces = [live[i : i + size] for i in range(0, len(live), size)]
    olds = [resized(old[p], part.mask.shape) for p, (part, _) in zip(pieces, batch.parts, strict=True)]
    update(trainer, batch, olds, Rollup())
    return named_weights(found[0])


@pytest.mark.parametrize("objective", ["gspo", "grpo"])
def test_micro_batches_and_left_out_responses_change_nothing(task: Task, saved: Any, tmp_path: Path, objective: str) -> None:
    advantages = np.random.default_rng(1).normal(size=16).astype(np.float32)
    advantages[::5] = 0
    results = []
    for micro_batch_size in (None, 3):
        trainer = make_trainer(task, saved, tmp_path, objective=objective, micro_batch_size=micro_batch_size)
        responses = draw(trainer)
        old = np.asarray(trainer.learner.log_probs(responses)[0])
        old = old + 0.02 * np.random.default_rng(2).normal(size=old.shape).astype(np.float32)
        results.append(gradients(trainer, responses, advantages, old))
    whole, parts = results
    largest = max(float(np.abs(g).max()) for g in whole.values())
    assert largest > 1e-3
    for name, gradient in whole.items():
        # float32 sums over at most 16 responses of 6 tokens, in another order
        np.testing.assert_allclose(parts[name], gradient, atol=1e-5 * largest, rtol=0, err_msg=name)


def test_a_mini_batch_without_any_advantage_has_zero_gradients(trainer: Trainer) -> None:
    responses = draw(trainer)
    found = gradients(trainer, responses, np.zeros(16, dtype=np.float32), np.zeros(responses.mask.shape))
    assert found
    assert all((gradient == 0).all() for gradient in found.values())


def test_steps_are_those_of_torch_adamw_with_warm_up_and_clipping(saved: Any) -> None:
    learner = Learner(load_qwen3(saved[2]), lr=1e-2, lr_warm_up=3, max_grad_norm=0.5, temperature=1.0)
    names = list(named_weights(learner.params))
    start = {name: weight.copy() for name, weight in named_weights(learner.params).items()}
    theirs = {name: torch.nn.Parameter(torch.tensor(start[name])) for name in names}
    optimizer = torch.optim.AdamW(theirs.values(), lr=1e-2, weight_decay=0.0)
    random = np.random.default_rng(0)
    for step in range(1, 6):
        # alternately far above the norm that is allowed, and below it
        scale = 1.0 if step % 2 else 1e-4
        ours = jax.tree.map(lambda x: jnp.asarray(scale * random.normal(size=x.shape), dtype=jnp.float32), learner.params)  # noqa: B023
        for name, gradient in named_weights(ours).items():
            theirs[name].grad = torch.tensor(gradient)
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        assert (float(norm) > 0.5) == (step % 2 == 1)
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, step / 3)
        optimizer.step()
        learner.step(ours)
    for name, weight in named_weights(learner.params).items():
        expected = theirs[name].detach().numpy()
        assert np.abs(expected - start[name]).max() > 1e-2
        # steps of about 1e-2, the moments rounded to float32
        np.testing.assert_allclose(weight, expected, atol=1e-6, rtol=1e-6, err_msg=name)


def test_non_finite_gradients_are_skipped_counted_and_end_the_run(trainer: Trainer) -> None:
    responses, rollup = draw(trainer), Rollup()
    before = named_weights(trainer.learner.params)

    def take(advantage: float) -> None:
        advantages = np.full(16, advantage, dtype=np.float32)
        batch = mini_batch(trainer, responses, advantages, Plan(advantages), np.arange(16))
        update(trainer, batch, [trainer.learner.log_probs(part)[0] for part, _ in batch.parts], rollup)

    for attempt in (1, 2):
        take(float("nan"))
        assert trainer.bad_steps == attempt
    after = named_weights(trainer.learner.params)
    assert all((after[name] == weight).all() for name, weight in before.items())
    take(1.0)
    assert (trainer.bad_steps, trainer.optimizer_steps) == (0, 1), "a good step forgives"
    after = named_weights(trainer.learner.params)
    assert any((after[name] != weight).any() for name, weight in before.items())
    assert rollup.row()["skipped_steps"] == 2
    for _ in range(2):
        take(float("nan"))
    with pytest.raises(TrainingFailure, match="3 gradients in a row were not finite, in rollout 1"):
        take(float("nan"))


def test_logits_that_are_not_finite_end_the_run(trainer: Trainer) -> None:
    trainer.learner.params = jax.tree.map(lambda x: x * jnp.nan, trainer.learner.params)
    with pytest.raises(TrainingFailure, match="logits are not finite"):
        draw(trainer)


@pytest.mark.parametrize("lr", [0.0, 1e-3])
def test_log_s_is_exactly_zero_until_the_policy_moves(
    task: Task, saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lr: float
) -> None:
    trainer = make_trainer(task, saved, tmp_path, lr=lr, micro_batch_size=3)
    # Half of the answers right, or no response of a random model has an advantage.
    coin = iter(range(10**6))
    monkeypatch.setattr(trainer.task, "score", lambda *_: float(next(coin) % 2))
    row = one_rollout(trainer)
    assert len(row["log_s"]) == 16
    assert row["grad_norm"] > 0
    assert row["by_mini_batch"][0] == {"clip_fraction": 0.0, "log_s_rms": 0.0}
    moved = [part["log_s_rms"] > 0 for part in row["by_mini_batch"][1:]]
    assert moved == [lr > 0] * 3
    assert (row["max_abs_log_s"] == 0) == (lr == 0)
    assert row["clip_low"] + row["clip_high"] == pytest.approx(row["clip_fraction"])


def test_a_checkpoint_gives_back_every_bit(trainer: Trainer, task: Task, saved: Any, tmp_path: Path) -> None:
    trainer.learner.step(jax.tree.map(jnp.ones_like, trainer.learner.params))
    (tmp_path / "checkpoints").mkdir()
    trainer.step = 7
    trainer.save()
    (path,) = trainer.folder.checkpoints()
    again = make_trainer(task, (saved[0], saved[1], path), tmp_path)  # the weights are read from the checkpoint
    fresh = jax.tree.leaves(again.learner.optimizer_state)
    again.restore(path)
    assert again.step == 7
    for learner in (lambda t: t.learner.params, lambda t: t.learner.optimizer_state):
        pairs = list(zip(jax.tree.leaves(learner(trainer)), jax.tree.leaves(learner(again)), strict=True))
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in pairs)
    restored = jax.tree.leaves(again.learner.optimizer_state)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(fresh, restored, strict=True))
    (path / "state.json").unlink()
    with pytest.raises(UserError, match="was not written by the JAX script"):
        again.restore(path)


def test_a_checkpoint_of_another_model_is_refused(trainer: Trainer, saved: Any, tmp_path: Path) -> None:
    larger = build_model(len(saved[1]), WarmUp(layers=3, hidden=32), 0, saved[1])
    larger.save_pretrained(tmp_path / "larger")
    other = Learner(load_qwen3(tmp_path / "larger"), lr=1e-3, lr_warm_up=0, max_grad_norm=1.0, temperature=1.0)
    (tmp_path / "checkpoint").mkdir()
    write_checkpoint(tmp_path / "checkpoint", other, saved[1], saved[2] / "config.json", {"step": 1})
    with pytest.raises(UserError, match="is a checkpoint of another model"):
        restore_checkpoint(tmp_path / "checkpoint", trainer.learner)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "cuda"}, "--device: JAX chooses its device itself"),
        ({"dtype": "bfloat16"}, "--dtype: the JAX script computes in float32, not bfloat16"),
        ({"model": "small-moe"}, "--model small-moe: the JAX script has a dense Qwen3 only"),
        ({"sampler_dtype": "bfloat16"}, "--sampler-dtype: the JAX script samples with the trainer's own passes"),
        ({"model": "smollm2"}, "--model smollm2: the JAX script has a dense Qwen3 only"),
    ],
)
def test_options_of_the_other_script_are_refused(options: dict[str, Any], sentence: str) -> None:
    refuse_what_is_not_here(Config(model="small"))
    with pytest.raises(UserError, match=f"^{sentence}"):
        refuse_what_is_not_here(Config(**{"model": "small", **options}))
