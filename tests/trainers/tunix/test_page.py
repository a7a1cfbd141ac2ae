"""The block of docs/in-your-trainer.md, and a training with what it makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax
from support.pages import DOCS, blocks, run, section
from support.trainers.tunix_training import Numbers, cluster, logged, loose_jax, model

PAGE = (DOCS / "in-your-trainer.md").read_text(encoding="utf-8")


def test_the_block_of_the_page() -> None:
    """Two optimizer steps, with our metrics in Tunix's log."""
    (block,) = blocks(section(PAGE, "Tunix"))
    scope: dict[str, Any] = {"__name__": "page"}
    run(block.code, scope, "in-your-trainer.md")
    with loose_jax():
        made = cluster(model(), Numbers(), optax.adam(1e-2), 2, {"mini_batch_size": 2}, tokens=4)
        learner = scope["learner"](made, lambda completions, **_: [float(len(set(x.split()))) for x in completions])
        log = logged(made)
        learner.train([{"prompts": np.array(["3 4", "5"])}])
    assert len(log) == 2
    assert log[0]["gspo/clip_active"] == 0.0
