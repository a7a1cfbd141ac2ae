"""gspo-scale prints a row for each number of GPUs, reads a model's config, and refuses in one sentence."""

from __future__ import annotations

import json
import re
import sys
from math import inf, nan
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from gspo_scale import Work
from gspo_scale.__main__ import GPUS, Options, main, report
from transformers import Qwen3Config


def run(*options: str) -> None:
    with patch.object(sys, "argv", ["gspo-scale", *options]):
        main()


def test_a_row_for_each_number_of_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    run("--model", "qwen3-8b", "--response", "8192", "--dtype", "bfloat16", "--checkpointing")
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if re.match(r" +\d", line)]
    assert [int(row[0]) for row in rows] == list(GPUS)
    assert {"yes", "no"} <= {word for row in rows for word in row}
    assert lines[0].startswith("qwen3-8b: 8,190,735,360 parameters; 256 + 8,192 tokens")


def test_a_folder_with_a_config_is_a_model(tmp_path: Path) -> None:
    Qwen3Config(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, tie_word_embeddings=True,
    ).save_pretrained(tmp_path)  # fmt: skip
    first = report(Options(model=str(tmp_path), gpus=1)).splitlines()[0]
    assert ": 21,824 parameters" in first


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(model="qwen9"), r"^model: expected one of smollm2-135m, .*, a folder or a hub id, got 'qwen9': "),
        (Options(parallel="fsdp"), r"^gpus: expected a number of GPUs beside --parallel, got none"),
        (Options(context=2), r"^context, vocabulary: expected --parallel ddp or fsdp beside them, got none"),
        (Options(gpus=3, parallel="ddp", context=2), r"^gpus: expected a multiple"),
        *((Options(gigabytes=size), f"^gigabytes: expected a positive number, got {size}") for size in (0.0, -80.0, nan, inf)),
    ],
)
def test_what_cannot_be_counted_is_refused(options: Options, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        report(options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"model_type": "mamba", "state_size": 4},  # no attention heads
        {"model_type": "llama", "num_attention_heads": 0},
        {"model_type": "llama", "num_key_value_heads": -1},
        {"model_type": "llama", "vocab_size": None},
        {"model_type": "llama", "pad_token_id": 10**9},
    ],
)
def test_a_config_of_sizes_that_cannot_be_counted_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 50, "intermediate_size": 16, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(sizes | wrong if wrong["model_type"] == "llama" else wrong))
    with pytest.raises(ValueError, match=r"^model: expected one of smollm2-135m, .*, a folder or a hub id, got .*: \S"):
        report(Options(model=str(tmp_path), gpus=2))


def test_the_command_ends_with_one_sentence() -> None:
    with pytest.raises(SystemExit, match=r"^gspo-scale: context, vocabulary: expected"):
        run("--context", "2")


def test_a_given_layout_is_the_only_one() -> None:
    text = report(Options(model="qwen3-8b", gpus=16, parallel="fsdp", context=2, vocabulary=2, work=Work(dtype="bfloat16")))
    assert "fsdp 4 × context 2 × vocabulary 2" in text
    assert "sent by each in an optimizer step" in text


def test_without_tyro_it_says_what_to_install() -> None:
    with patch.dict(sys.modules, {"tyro": None}), pytest.raises(SystemExit, match=r"^gspo-scale needs tyro: pip install"):
        run()
