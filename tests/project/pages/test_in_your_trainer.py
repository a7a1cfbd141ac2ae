"""docs/in-your-trainer.md: the plain loops run here, each trainer's block in tests/trainers/<trainer>/test_page.py."""

import re

import pytest
from support.pages import DOCS, blocks, run, section
from support.repository import ROOT

PAGE = (DOCS / "in-your-trainer.md").read_text(encoding="utf-8")
LOOPS = ["A plain loop in PyTorch", "A plain loop in JAX"]


@pytest.mark.slow
@pytest.mark.parametrize("heading", LOOPS)
def test_a_plain_loop_takes_the_same_step_in_any_number_of_parts(heading: str) -> None:
    (block,) = blocks(section(PAGE, heading))
    assert run(block.code, {"__name__": "loop"}, heading) == block.shown
    assert block.shown is not None
    assert "False" not in block.shown


def test_every_section_with_a_trainer_has_a_test() -> None:
    for heading in re.findall(r"^## (.+)$", PAGE, flags=re.MULTILINE):
        if heading not in LOOPS:
            test = ROOT / "tests" / "trainers" / heading.lower() / "test_page.py"
            assert f'"{heading}"' in test.read_text(encoding="utf-8"), heading
