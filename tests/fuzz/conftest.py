"""`make fuzz` prints what it did: seeds, and cases of each kind."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The sums over all workers."""
    passed = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    found = [dict(report.user_properties)["fuzz"] for report in passed if "fuzz" in dict(report.user_properties)]
    if not found:
        return
    done: Counter[str] = Counter()
    for cases in found:
        done.update(cases)
    compared = sum(number for what, number in done.items() if "left out" not in what)
    terminalreporter.write_line(f"{compared:,} cases in {len(found)} chunks; a chunk's number is its seed:")
    for what, number in sorted(done.items()):
        terminalreporter.write_line(f"  {number:>8,}  {what}")
