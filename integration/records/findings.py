"""The findings of `gspo_core.diagnose` in a run: in its metrics, on the terminal and in its report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from gspo_core.metrics import Finding
from integration.records.json_lines import Row


def finding_rows(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """As they are written into a rollout's line of metrics, most severe first."""
    return [{"kind": finding.kind.name, "sentence": finding.sentence} for finding in findings]


class Announcer:
    """Prints each kind of finding once, in the rollout in which it is first seen."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._known = {finding["kind"] for row in rows for finding in row.get("findings", [])}

    def after_rollout(self, step: int, row: Row) -> None:
        """Print what is new in a line of metrics."""
        for finding in row["findings"]:
            if finding["kind"] not in self._known:
                self._known.add(finding["kind"])
                tqdm.write(f"rollout {step}: {finding['sentence']}")


def findings_of_run(rows: list[Row]) -> list[str]:
    """One line for each kind: how many rollouts had it, the last of them, and the sentence with that rollout's numbers.

    >>> seen = {"kind": "CLIP_RANGE_WIDE", "sentence": "It never acts."}
    >>> findings_of_run([{"step": 1, "findings": []}, {"step": 2, "findings": [seen]}])
    ['1 of 2 rollouts, last in rollout 2: It never acts.']
    """
    by_kind: dict[str, list[tuple[int, Any]]] = {}
    for row in rows:
        for finding in row.get("findings", []):
            by_kind.setdefault(finding["kind"], []).append((row["step"], finding["sentence"]))
    often = sorted(by_kind.values(), key=len, reverse=True)
    return [f"{len(seen)} of {len(rows)} rollouts, last in rollout {seen[-1][0]}: {seen[-1][1]}" for seen in often]
