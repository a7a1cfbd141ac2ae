"""Tunix's own repository, where TUNIX_CHECKOUT names a checkout: its learner makes one step of our micro-batches, exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from support.repository import ROOT

CHECKOUT = os.environ.get("TUNIX_CHECKOUT", "")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="TUNIX_CHECKOUT names no checkout of google/tunix")


@pytest.fixture(scope="module")
def found() -> Any:
    """What the program prints."""
    path = os.pathsep.join([CHECKOUT, str(ROOT), str(ROOT / "backends"), str(ROOT / "tests")])
    command = [sys.executable, "-W", "ignore", "-m", "support.trainers.tunix_repository"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_its_learner_computes_the_paper_s_step(found: Any) -> None:
    """In float32: loss and gradient of three responses and one, on rows and on packs; and a training."""
    for layout in ("rows", "packs"):
        one = found[layout]
        assert one["loss"] <= 1e-6
        assert one["gradient"] <= 1e-6
        assert min(one["largest gradient"], one["mean of means"]) > 0.1
        assert 0 < one["clip_active"] < 1
    training = found["training"]
    assert training["last"] > training["first"] + 0.3
    log = {name: np.array(values) for name, values in training["log"].items()}
    assert all(np.isfinite(values).all() for values in log.values())
    assert max(log["gspo/clip_active"][0::2]) == 0.0
    assert max(log["gspo/clip_active"][1::2]) > 0.1


def test_what_the_page_says_of_its_old_log_probs(found: Any) -> None:
    """At the first of two updates nothing has moved. If one fails, Tunix has changed: mend the page."""
    of_the_sampler, of_its_own = (found[name]["log"]["gspo/log_s_rms"][0::2] for name in ("training", "its own old log-probs"))
    assert 1e-4 < max(of_the_sampler) < 1e-2
    assert of_its_own[0] < 1e-6
    assert min(of_its_own[1:]) > 0.1  # of the policy before the training, where roles share weights
