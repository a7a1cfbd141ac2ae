"""The block of docs/in-your-trainer.md trains, with a small model in place of Qwen3-0.6B."""

from pathlib import Path
from typing import Any

from support.pages import DOCS, blocks, run, section

from integration.parity.reference import START

PAGE = (DOCS / "in-your-trainer.md").read_text(encoding="utf-8")


def test_the_block_of_the_page(tmp_path: Path) -> None:
    (block,) = blocks(section(PAGE, "TRL"))
    code = block.code
    for written, small in (
        ('"Qwen/Qwen3-0.6B"', repr(str(START))),
        ('"runs/first",', f"{str(tmp_path)!r}, use_cpu=True, bf16=False, report_to=[], save_strategy='no', logging_steps=1,"),
        (").train()", ").train()\n"),
    ):
        assert written in code
        code = code.replace(written, small)
    scope: dict[str, Any] = {"__name__": "page"}
    printed = run(code, scope, "in-your-trainer.md")
    assert "gspo/clip_active" in printed
    assert "train_runtime" in printed
