"""The record of a run over all hosts: one entry per option, as JSON and as a Markdown table."""

from __future__ import annotations

import importlib.metadata
import platform
import warnings
from collections.abc import Iterable
from datetime import date
from typing import Any

from gspo_core import __version__, laws

from .host import Host, Option

EXAMPLES = 60
"""Random batches per law, as in `laws.check`."""


def judged(option: Option, examples: int) -> dict[str, Any]:
    """The verdict of the kit on one option of a host that is installed, in plain types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # imports of hosts warn about what they would like to have
        loss = option.loss()
        # The stand-ins for a model are Python objects, which no compiler takes.
        found = laws.profile(loss, option.like, without={laws.Claim.COMPILES}, examples=examples)
        report = found.report
        causes = [{k: v for k, v in cause.as_dict().items() if k != "laws"} for cause in report.causes]
    return {
        "settings": option.settings,
        "source": option.source,
        "like": report.like,
        "library": report.framework,
        "verdict": verdict(report),
        "laws": report.summary,
        "causes": causes,
        "differs_from_the_paper": [finding.sentence for finding in found.differs],
    }


def verdict(report: laws.Report) -> str:
    """One of four."""
    if report.wrong:
        return "another loss"
    if report.fragile:
        return "the loss, except at extremes"
    return "the loss, up to an epsilon" if report.harmless else "the loss"


def record(hosts: Iterable[Host], day: date, examples: int = EXAMPLES) -> dict[str, Any]:
    """All hosts; those that are not installed have no options."""
    entries = []
    for host in hosts:
        options = [] if host.version is None else [judged(option, examples) for option in host.options]
        entry = {"host": host.name, "package": host.distribution, "version": host.version, "called": host.called}
        entries.append({**entry, "options": options, "to_get_the_papers_loss": host.advice})
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "torch", "jax")}
    used = {"gspo_core": __version__, "python": platform.python_version(), **versions}
    return {"date": f"{day:%Y-%m-%d}", "versions": used, "hosts": entries}


HEAD = """# Losses in the wild

The [conformance kit](laws.md) was run on the policy losses of eight trainers and libraries, each as it is installed from the
package index, with its defaults and with the settings that it documents for GSPO. Every loss is the trainer's own code; only
the model is replaced, by log-probs, and each section says what was called. A verdict compares a loss with what its settings
claim to compute, on one process and one micro-batch: a different weighting of responses may well be intended, and is often
documented. *The loss, except at extremes* means that the formula is right, and that very large ratios, NaN in padding, or a
batch without a token give another number. Versions move, so that the date below matters; `python -m integration.wild` makes
the record anew where the trainers are installed. The first causes and the advice were compared with the sources of these
versions by hand. If a sentence about your trainer is wrong or out of date, please open an issue with this project, and we will
mend it.

Below each table stands the smallest counterexample to each first cause, with both numbers. In it d is a token's
log π − log π_old, · a masked slot, A the advantage of the response and |y| its number of tokens.

Four differences are shown by short programs that use nothing of this library, `integration/wild/minimal/`: verl's default
average, Tunix's packed rows, EasyDeL's clip for A < 0, and the gradient of TRL's LM head where FSDP2 makes a unit of its own
of it, which no option of a loss can show.

Results as JSON: [results/in-the-wild.json](results/in-the-wild.json). BNPO is the preset of a mean over tokens with the clip
range 0.2, which is what the token-level defaults compute.

"""


def page(found: dict[str, Any]) -> str:
    """The page of the documentation."""
    return HEAD + markdown(found)


def markdown(found: dict[str, Any]) -> str:
    """A section per host: what was called, a table of its options, the counterexamples, and the advice."""
    used = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [f"Of {found['date']}, with {used}.", ""]
    for entry in found["hosts"]:
        lines += [f"## {entry['host']} {entry['version'] or '(not installed)'}", "", f"Called: {entry['called']}.", ""]
        if entry["options"]:
            lines += ["| settings | compared with | verdict | first cause |", "|---|---|---|---|"]
            lines += [_row(option) for option in entry["options"]]
            lines += ["", *(_counterexample(option) for option in entry["options"] if option["causes"])]
        lines += ["", f"To get the paper's loss here: {entry['to_get_the_papers_loss']}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(option: dict[str, Any]) -> str:
    cause = option["causes"][0]["cause"] if option["causes"] else ""
    return (
        "| " + " | ".join(x.replace("|", "\\|") for x in (_settings(option), option["like"], option["verdict"], cause)) + " |"
    )


def _settings(option: dict[str, Any]) -> str:
    """As code, unless they are words."""
    words = option["settings"]
    return f"`{words}`" if any(mark in words for mark in "=()_") else words


def _counterexample(option: dict[str, Any]) -> str:
    return f"- {_settings(option)}: {option['causes'][0]['counterexample']}"
