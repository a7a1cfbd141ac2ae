"""A run of two processes that share each response's tokens is the run of one process, and says which models it is not for.

Other meshes, and a head in parts: on_torch/parallel/test_updates.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.runs.model_folders import saved
from support.runs.processes import run_on
from support.runs.scripts import PRETRAINED, TINY, rows, run
from transformers import AutoTokenizer

pytestmark = pytest.mark.slow

OPTIONS = [*TINY, "--rollouts", "1", "--micro-batch-size", "3", "--gradient-checkpointing"]
NEAR = 1e-5
"""Of 2e-2 nats of clip range. A log-prob of a few nats is rounded to 5e-7, and four updates add the roundings of gradients."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cache of the warmed-up model."""
    return tmp_path_factory.mktemp("spread")


@pytest.fixture(scope="module")
def alone(workplace: Path) -> Path:
    """The run of one process."""
    folder = workplace / "alone"
    done = run(workplace / "cache", *OPTIONS, "--run-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_of_two_processes_is_that_of_one(workplace: Path, alone: Path) -> None:
    folder = workplace / "spread"
    for done in run_on(2, workplace / "cache", *OPTIONS, "--context-parallel", "2", "--run-dir", str(folder)):
        assert done.returncode == 0, done.stderr
    for ours, theirs in zip(rows(folder), rows(alone), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("reward", "clip_fraction", "clip_low", "clip_high", "lengths", "signs", "batches", "skipped_steps"):
            assert ours[name] == theirs[name]
        assert ours["log_s"] == pytest.approx(theirs["log_s"], abs=NEAR)
        for name in ("loss_trained", "grad_norm", "entropy_per_token", "log_s_rms"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=NEAR)
    assert any(0 < row["clip_fraction"] < 1 for row in rows(alone))
    ours, theirs = (load_file(path / "checkpoints" / "000001" / "model.safetensors") for path in (folder, alone))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - weight).abs().max() <= NEAR for name, weight in theirs.items())


def test_a_model_with_convolutions_is_refused_by_name(workplace: Path, alone: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(alone / "checkpoints" / "000001")
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "pad_token_id": 0}
    saved(tmp_path / "lfm2", model_type="lfm2", **sizes, **more, eos_token_id=tokenizer.eos_token_id)
    tokenizer.save_pretrained(tmp_path / "lfm2")
    options = [*PRETRAINED, "--model", str(tmp_path / "lfm2"), "--context-parallel", "2", "--run-dir", str(tmp_path / "run")]
    for done in run_on(2, workplace / "cache", *options):
        assert done.returncode == 2
        assert "--context-parallel" in done.stderr
        assert "Lfm2ForCausalLM" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
