"""What is no whole trainable model is refused by its folder, before weights are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.options.errors import UserError
from integration.shared.pretrained import load_model


def test_the_folder_of_an_adapter_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "nowhere"}')
    with pytest.raises(UserError, match=r"--model: .* is an adapter, not a whole model: merge it .*merge_and_unload"):
        load_model(str(tmp_path))
