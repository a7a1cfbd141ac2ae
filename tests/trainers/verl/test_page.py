"""The blocks of docs/in-your-trainer.md."""

from support.pages import DOCS, blocks, run, section

PAGE = (DOCS / "in-your-trainer.md").read_text(encoding="utf-8")


def test_the_block_of_the_page() -> None:
    (block,) = blocks(section(PAGE, "verl"))
    assert run(block.code, {"__name__": "page"}, "in-your-trainer.md") == block.shown
