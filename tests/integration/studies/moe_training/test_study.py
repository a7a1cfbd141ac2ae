"""The training study's runs: reproducible to the bit, told apart by their arm alone, and never done twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from integration.options.errors import UserError
from integration.records.json_lines import read_rows
from integration.studies.moe_training import study as moe_training
from integration.studies.moe_training.arms import ARMS, MAIN, RESCUE, RESCUE_ARMS, Arm, Job, Sizes, Study, job_of, jobs_of
from integration.studies.moe_training.models import starting_model
from integration.studies.moe_training.reversal import answers, build, log_probs, prompts, rewards, sample, score, warmed_up
from integration.studies.moe_training.run import run

pytestmark = pytest.mark.slow

SMALL = Sizes(
    layers=2, hidden=16, experts=4, symbols=6, alphabet=4, prompts=4, group=4, mini_batches=2, rollouts=2, lr_warm_up=1,
    held_out=4, warm_up_reward=0.0,
)  # fmt: skip
STUDY = Study("main", ARMS, (5e-2,), (0, 1), SMALL)
SHAKY = Study("rescue", RESCUE_ARMS, (1e-2,), (0,), replace(SMALL, top_k=1, normalised_gates=False, repeats=2, old_noise=0.5))


def result(arm: Arm, study: Study = STUDY, seed: int = 0) -> dict[str, Any]:
    """A run without its seconds, which are not a function of the job."""
    job = Job(study, arm, study.lrs[0], seed)
    row = run(job, warmed_up(study.sizes, arm.dense, seed, "cpu"))
    assert set(row.pop("seconds")) == {"run", "responses", "scoring", "updating"}
    return row


def named(name: str, study: Study = STUDY) -> Arm:
    return next(arm for arm in study.arms if arm.name == name)


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """A run of two rollouts in every arm of both studies."""
    return {f"{study.name} {arm.name}": result(arm, study) for study in (STUDY, SHAKY) for arm in study.arms}


def test_every_arm_trains_and_measures(rows: dict[str, dict[str, Any]]) -> None:
    for row in rows.values():
        curves = row["curves"]
        assert all(len(curve) == SMALL.rollouts for curve in curves.values())
        assert all(0 <= share <= 1 for name in ("reward", "clip_fraction") for share in curves[name])
        assert min(curves["grad_norm"]) > 0
        assert sum(curves["skipped"]) == 0
        assert min(curves["sd_token"]) > 0
        assert min(curves["log_s_max"]) > 0
        json.dumps(row)


def test_a_run_is_a_function_of_its_job(rows: dict[str, dict[str, Any]]) -> None:
    torch.manual_seed(123)  # whatever the process has drawn before
    assert result(named("gspo-matched")) == rows["main gspo-matched"]
    assert result(named("grpo-wide-r3", SHAKY), SHAKY) == rows["rescue grpo-wide-r3"]


def test_arms_of_a_seed_begin_alike_and_part_ways(rows: dict[str, dict[str, Any]]) -> None:
    """The same model, prompts and first responses for all mixtures; another seed has others."""
    mixtures = [rows[f"main {arm.name}"] for arm in ARMS if not arm.dense]
    assert len({(row["held_out"][0], row["curves"]["reward"][0]) for row in mixtures}) == 1
    for one, other in (
        ("grpo-wide", "no-clip"),
        ("grpo-wide", "gspo-wide"),
        ("grpo-wide", "grpo-matched"),
        ("gspo-matched", "gate-only"),
    ):
        assert rows[f"main {one}"]["curves"]["sd_token"] != rows[f"main {other}"]["curves"]["sd_token"]
    for free in ("grpo-wide", "gspo-matched"):
        assert rows[f"main {free}"]["curves"]["sd_token"] != rows[f"main {free}-r2"]["curves"]["sd_token"]
    other = result(named("gspo-matched"), seed=1)
    assert other["curves"]["sd_token"] != rows["main gspo-matched"]["curves"]["sd_token"]


def test_what_is_clipped_follows_from_the_range(rows: dict[str, dict[str, Any]]) -> None:
    clipped = {name.split()[1]: sum(row["curves"]["clip_fraction"]) for name, row in rows.items() if name.startswith("main")}
    assert clipped["no-clip"] == 0
    assert clipped["grpo-tight"] > clipped["grpo-wide"]
    assert clipped["gspo-tight"] > clipped["gspo-wide"]


def test_dense_models_have_no_routes_and_replay_has_no_flips_of_its_own(rows: dict[str, dict[str, Any]]) -> None:
    dense, free, replayed = (rows[f"main {name}"]["curves"] for name in ("dense-grpo-wide", "grpo-wide", "grpo-wide-r2"))
    assert dense["flips_engine"] == [[], []]
    assert len(free["flips_engine"][0]) == SMALL.layers
    assert max(free["flips_engine"][0]) > 0
    assert len(free["flips_updates"][0]) == SMALL.layers
    assert replayed["flips_updates"] == [[], []]
    assert free["flips_engine"][0] == replayed["flips_engine"][0]  # before the first update nothing tells the arms apart


def test_replay_takes_the_trainers_routing_noise_out_of_the_first_ratios() -> None:
    """With noise in the trainer's pass, old and new routes differ at the same weights; along R2's or R3's they do not."""
    sizes = SHAKY.sizes
    model = build(sizes, False, 0)
    prompt = prompts(sizes, 16, torch.Generator().manual_seed(0))
    ids, sampled = sample(sizes, model, prompt, 0.5, 1)
    _, own = score(sizes, model, ids, 2, None)
    along, again = score(sizes, model, ids, 2, sampled)
    assert float(own.flips(sampled).max()) > 0
    assert torch.equal(own.experts, again.experts)
    assert not torch.equal(along, score(sizes, model, ids, 2, None)[0])
    quiet = replace(sizes, old_noise=0.0)
    assert torch.equal(score(quiet, model, ids, 2, None)[0], log_probs(quiet, model, ids).detach())


def test_the_reward_is_the_share_of_symbols_in_their_place() -> None:
    sizes = Sizes(symbols=3, alphabet=5, repeats=2)
    prompt = torch.tensor([[1, 2, 3, 5]])
    assert answers(sizes, prompt).tolist() == [[3, 2, 1, 3, 2, 1]]
    assert rewards(sizes, torch.tensor([[1, 2, 3, 5, 3, 2, 1, 3, 2, 1]])).tolist() == [1.0]
    assert rewards(sizes, torch.tensor([[1, 2, 3, 5, 3, 2, 2, 4, 4, 1]])).tolist() == [0.5]


def test_the_grid_is_even_and_whole_seeds_come_first() -> None:
    jobs = jobs_of([MAIN, RESCUE])
    assert len({job.key for job in jobs}) == len(jobs)
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    assert len(MAIN.seeds) >= 5
    assert len(MAIN.lrs) == 3
    assert len(jobs) == sum(len(s.arms) * len(s.lrs) * len(s.seeds) for s in (MAIN, RESCUE))
    assert len({job.model for job in jobs if job.seed == 0}) == 3  # mixture, dense, rescue
    for job in (jobs[0], jobs[-1]):
        made_again = job_of(json.loads(json.dumps(job.settings)))
        assert (made_again.key, made_again.arm, made_again.study.sizes) == (job.key, job.arm, job.study.sizes)


def test_finished_runs_are_never_repeated_and_the_rest_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across two folders, as when a study goes on elsewhere, with a last line that was cut off."""
    tiny = Study("main", ARMS[:2], (1e-2,), (0,), replace(SMALL, rollouts=1))
    cache = tmp_path / "cache"
    command = moe_training.Command(tmp_path / "a", studies=("main",), only=(ARMS[0].name,), cache_dir=cache)
    monkeypatch.setitem(moe_training.STUDIES, "main", tiny)
    assert moe_training.main(command) == 0
    (line,), (model,) = read_rows(tmp_path / "a" / "results.jsonl"), cache.iterdir()
    written = model.stat().st_mtime_ns
    marked = json.dumps(line | {"mark": "untouched"})
    (tmp_path / "a" / "results.jsonl").write_text(marked + "\n" + '{"name": "main/', encoding="utf-8")

    assert moe_training.main(replace(command, out=tmp_path / "b", start_from=tmp_path / "a", only=())) == 0
    rows = read_rows(tmp_path / "b" / "results.jsonl")
    assert sorted(row["name"] for row in rows) == sorted(job.key for job in jobs_of([tiny]))
    assert [row["name"] for row in rows if "mark" in row] == [line["name"]]
    assert list(cache.iterdir()) == [model]
    assert model.stat().st_mtime_ns == written  # nothing was warmed up again
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["models.jsonl", "results.jsonl"]


def test_a_model_out_of_the_cache_trains_as_a_new_one_does(tmp_path: Path) -> None:
    job = Job(SHAKY, named("grpo-wide", SHAKY), 1e-2, 0)
    made, loaded = (run(job, starting_model(job, tmp_path, "cpu")) for _ in range(2))
    for row in (made, loaded):
        del row["seconds"]
    assert made == loaded == result(job.arm, SHAKY)
    (folder,) = tmp_path.iterdir()
    longer = Job(replace(SHAKY, sizes=replace(SHAKY.sizes, rollouts=9)), job.arm, 1e-2, 0)
    starting_model(longer, tmp_path, "cpu")
    assert list(tmp_path.iterdir()) == [folder]  # more rollouts start from the same model
    other = Job(replace(SHAKY, sizes=replace(SHAKY.sizes, warm_up_lr=1e-3)), job.arm, 1e-2, 0)
    starting_model(other, tmp_path, "cpu")
    assert len(list(tmp_path.iterdir())) == 2


def test_out_of_time_is_a_clean_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(moe_training.STUDIES, "main", Study("main", ARMS[:1], (1e-2,), (0,), SMALL))
    command = moe_training.Command(tmp_path / "out", studies=("main",), time_limit=0.0, cache_dir=tmp_path / "cache")
    assert moe_training.main(command) == 130
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_wrong_command_is_one_sentence(tmp_path: Path) -> None:
    command = moe_training.Command(tmp_path / "out", cache_dir=tmp_path / "cache")
    for wrong, words in (
        ({"only": ("gspo",)}, "--only: expected some of"),
        ({"seeds": (77,)}, "--seeds: expected some of"),
        ({"lrs": (1.0,)}, "--lrs: expected some of"),
    ):
        with pytest.raises(UserError, match=words):
            moe_training.chosen(replace(command, **wrong))
    with pytest.raises(UserError, match="--jobs"):
        moe_training.main(replace(command, jobs=0))
    with pytest.raises(UserError, match="--start-from"):
        moe_training.main(replace(command, start_from=tmp_path / "nowhere"))


def test_this_transformers_has_routers_that_can_be_replayed() -> None:
    moe_training.check_routers(moe_training.chosen(moe_training.Command(Path("unused")))[0])


def test_the_large_study_is_the_same_with_a_bigger_model() -> None:
    jobs = moe_training.chosen(moe_training.Command(Path("unused"), size="large", only=("gspo-matched",), seeds=(0,)))
    assert {job.study.sizes.hidden for job in jobs} == {512}
    assert {job.arm.objective for job in jobs if job.study.name == "large-main"} == {named("gspo-matched").objective}
