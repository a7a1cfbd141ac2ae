"""Options that only the PyTorch script has."""

from __future__ import annotations

from typing import Any

import pytest
from support.runs import fake_vllm

from integration.on_jax.options import check_options
from integration.options.config import Config
from integration.options.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "cuda"}, "--device: JAX chooses its device itself"),
        ({"dtype": "bfloat16"}, "--dtype: the JAX script computes in float32, not bfloat16"),
        ({"model": "small-moe", "routing_replay": "r3"}, "--routing-replay: the JAX script routes freely in every pass"),
        ({"sampler": "vllm"}, "--sampler: the JAX script samples with the model itself"),
        ({"sampler_dtype": "bfloat16"}, "--sampler-dtype: the JAX script samples with the trainer's own passes"),
    ],
)
def test_options_of_the_other_script_are_refused(
    options: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vllm.install(monkeypatch)
    check_options(Config(model="small"))
    with pytest.raises(UserError, match=f"^{sentence}"):
        check_options(Config(**{"model": "small", **options}))
