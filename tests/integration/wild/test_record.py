"""Judging the losses of other trainers: with a fake host everywhere, and with the real ones where they are installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support.repository import ROOT

from gspo_core import GSPO
from gspo_core.laws import subject_of
from gspo_core.laws.kit.batch import Batch
from integration.wild.definitions import definitions
from integration.wild.host import Host, Loss, Option
from integration.wild.hosts import HOSTS
from integration.wild.record import markdown, page, record

LIKE = GSPO.with_clip(0.2, 0.3)
SOURCE = """
import a_library_that_is_not_there

@a_library_that_is_not_there.registered
def sequence_loss(logp, old, advantage, mask):
    ratio = np.exp(np.clip(np.where(mask, logp - old, 0.0).sum(1) / np.maximum(mask.sum(1), 1), None, 50.0))
    return -np.where(mask.any(1), np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.3) * advantage), 0.0)

def of_responses(logp, old, advantage, mask):
    return sequence_loss(logp, old, advantage, mask).sum() / max(mask.any(1).sum(), 1)

def of_rows(logp, old, advantage, mask):
    return sequence_loss(logp, old, advantage, mask).mean()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A package that is installed, and whose imports fail."""
    (tmp_path / "fakehost").mkdir()
    (tmp_path / "fakehost" / "loss.py").write_text(SOURCE)
    (tmp_path / "fakehost-1.2.dist-info").mkdir()
    (tmp_path / "fakehost-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fakehost\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path)

    def loss(name: str) -> Loss:
        found: Loss = definitions("fakehost", "fakehost/loss.py", ["sequence_loss", name], {"np": np})[name]
        return found

    options = Option("default", "", lambda: loss("of_rows"), LIKE), Option("right", "", lambda: loss("of_responses"), LIKE)
    return Host("Fake", "fakehost", "its text", options, "say right")


@pytest.mark.slow
def test_a_record_has_version_verdict_cause_counterexample_and_advice(fake: Host) -> None:
    absent = Host("Nowhere", "a-trainer-that-nobody-has", "nothing", fake.options, "install it")
    found = record([fake, absent], date(2026, 11, 28), examples=3)
    first, second = found["hosts"][0]["options"]
    assert (found["hosts"][0]["version"], found["hosts"][1]["version"], found["hosts"][1]["options"]) == ("1.2", None, [])
    assert (first["verdict"], second["verdict"]) == ("another loss", "the loss")
    assert first["causes"][0]["cause"] == "rows without a token are counted"
    assert "the loss returns -0.5, the law requires -1." in first["causes"][0]["counterexample"]
    assert second["causes"] == []
    text = markdown(found)
    assert "## Fake 1.2\n" in text
    assert "| default | GSPO with Clip(low=0.2, high=0.3) | another loss | rows without a token are counted |" in text
    assert "## Nowhere (not installed)\n" in text
    assert "To get the paper's loss here: say right." in text
    assert json.loads(json.dumps(found)) == found


@pytest.mark.usefixtures("fake")
def test_a_definition_that_is_gone_is_named() -> None:
    with pytest.raises(LookupError, match=r"fakehost: expected renamed in fakehost/loss.py, got sequence_loss, of_responses"):
        definitions("fakehost", "fakehost/loss.py", ["renamed"], {})


def test_the_committed_page_is_that_of_the_committed_record() -> None:
    """Every host has a section, a date and an advice; none of its names is missing from the list of hosts."""
    found = json.loads((ROOT / "docs" / "results" / "in-the-wild.json").read_text(encoding="utf-8"))
    assert page(found) == (ROOT / "docs" / "in-the-wild.md").read_text(encoding="utf-8")
    assert [entry["host"] for entry in found["hosts"]] == [host.name for host in HOSTS]
    for entry, host in zip(found["hosts"], HOSTS, strict=True):
        assert [option["settings"] for option in entry["options"]] == [option.settings for option in host.options]
        assert (entry["called"], entry["to_get_the_papers_loss"]) == (host.called, host.advice)


@pytest.fixture
def _jax_as_it_comes() -> Iterator[None]:
    """Hosts are written for JAX's default type promotion, which the test suite makes strict elsewhere."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


BATCH = Batch.of([[1e-4, 0.0, 0.0], [-1e-4, 1e-4, 5e-5]], [1.0, -0.5], [[1, 1, 0], [1, 1, 1]], base=-0.5)
ALL = [pytest.param(h, o, id=f"{h.name}-{number}") for h in HOSTS for number, o in enumerate(h.options)]


@pytest.mark.slow
@pytest.mark.usefixtures("_jax_as_it_comes")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("host", "option"), ALL)
def test_an_installed_host_is_called_as_its_signature_wants(host: Host, option: Option) -> None:
    if host.version is None:
        pytest.skip(f"{host.distribution} is not installed")
    result: Any = subject_of(option.loss())(BATCH)
    assert np.isfinite(result.value)
    assert np.abs(result.weight[BATCH.mask]).min() > 0
    assert np.abs(result.weight[~BATCH.mask]).max() == 0
