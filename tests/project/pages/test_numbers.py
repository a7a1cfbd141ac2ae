"""The numbers of the README, of the committed runs and of the benchmarks are those in the records they come from.

A claim is a template with the numbers left open, and a function that computes them from the committed records. The filled
template must stand in the page, word for word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from support.repository import ROOT

GPU = [json.loads((ROOT / f"benchmarks/results/gpu-h100-{i}.json").read_text())["findings"] for i in (1, 2, 3)]
ALL_GPU = [finding for record in GPU for finding in record]
JAX = json.loads((ROOT / "benchmarks/results/gpu-jax-h100-1.json").read_text())["findings"]
CPU = json.loads((ROOT / "benchmarks/results/lm_head.json").read_text())["rows"]
RUNS = ("smollm2-0", "smollm2-1", "smollm2-2", "small-0", "small-1", "small-2", "jax-small-0")


class Claim(NamedTuple):
    """A sentence or a row of a table, and where its numbers come from."""

    page: str
    template: str
    numbers: Callable[[], tuple[Any, ...]]

    def text(self) -> str:
        """The template with the numbers of the records."""
        return self.template.format(*self.numbers())


def times(findings: list[dict[str, Any]], name: str, field: str = "times_floor") -> tuple[float, float]:
    """Least and largest of a field over shapes where nothing could be skipped."""
    rows = [f for f in findings if f["kind"] == "time" and f["name"] == name and f.get("skip", 0.0) == 0.0 and field in f]
    assert len(rows) >= 2, f"{name}: {len(rows)} rows"
    return min(f[field] for f in rows), max(f[field] for f in rows)


def gib(findings: list[dict[str, Any]], name: str, field: str = "memory_mib") -> tuple[float, float]:
    """The same of a memory, in GiB."""
    low, high = times(findings, name, field)
    return low / 1024, high / 1024


def wrong(findings: list[dict[str, Any]], name: str) -> tuple[int, int]:
    """(wrong clip decisions, sequences) with bfloat16 parameters."""
    (row,) = [f for f in findings if f["kind"] == "check" and f["name"] == name and "float32" not in f.get("dtype", "")]
    return row["wrong_clip_decisions"], row["sequences"]


def real(field: Callable[[dict[str, Any]], float]) -> tuple[float, ...]:
    """A number of both shapes with real lengths."""
    return tuple(field(row) for row in CPU if row["case"] == "real")


def lines(run: str, name: str) -> list[dict[str, Any]]:
    """A committed run's JSON lines."""
    return [json.loads(line) for line in (ROOT / "docs/results" / run / name).read_text().splitlines()]


def accuracy(run: str) -> tuple[float, ...]:
    """Sampled accuracy before and after, greedy accuracy before and after, in percent."""
    found = lines(run, "evaluations.jsonl")
    return tuple(100 * row[f"{kind}_accuracy"] for kind in ("sampled", "greedy") for row in (found[0], found[-1]))


def clipping(run: str) -> tuple[float, float, float, float]:
    """Clip fraction, its lower and upper part (means over rollouts), and the largest |log s|."""
    rows = lines(run, "metrics.jsonl")
    means = [sum(row[name] for row in rows) / len(rows) for name in ("clip_fraction", "clip_low", "clip_high")]
    return means[0], means[1], means[2], max(row["max_abs_log_s"] for row in rows)


def run_row(run: str) -> Claim:
    """A row of the table of committed runs, up to its wall time; the interval is checked by its own script."""

    def numbers() -> tuple[float, ...]:
        before, after, greedy_before, greedy_after = accuracy(run)
        return (before, after, after - before, greedy_before, greedy_after, *clipping(run))

    template = f"| {run} | {{:.1f}} → {{:.1f}} % | +{{:.1f}}, INTERVAL | {{:.1f}} → {{:.1f}} % | "
    template += "{:.3f} ({:.3f} + {:.3f}) | {:.2f} |"
    return Claim("docs/results/README.md", template, numbers)


def jax_row(row: dict[str, Any]) -> Claim:
    """A row of the table of JAX's LM head on a CPU."""

    def numbers() -> list[float]:
        ratio, memory = row["ratios"], row["temp_of_naive"]
        names = ("aligned", "two_pass")
        return [x for n in names for x in (*(ratio[f"{n}/{of}"]["cpu"]["median"] for of in ("naive", "floor")), memory[n])]

    return Claim("benchmarks/README.md", f"| {row['shape']} {row['case']} |" + " {:.2f} |" * 6, lambda: tuple(numbers()))


def two_pass(field: Callable[[dict[str, Any]], float]) -> tuple[float, float]:
    """Least and largest over the CPU's rows."""
    return min(map(field, CPU)), max(map(field, CPU))


def dense(field: Callable[[dict[str, Any]], float]) -> tuple[float, float]:
    """Least and largest over the rows without anything to skip."""
    found = [field(row) for row in CPU if row["case"] == "dense"]
    return min(found), max(found)


CLAIMS = [
    Claim(
        "docs/performance.md",
        "two-pass: {:.0f} to {:.0f} MiB beyond the gradients in the CPU benchmark, in {:.2f} to {:.2f} of the time of full",
        lambda: (
            *two_pass(lambda row: row["implementations"]["two_pass"]["beyond_gradients_mib"]),
            *dense(lambda row: row["cpu_ratios"]["two_pass/naive"]["median"]),
        ),
    ),
    *map(jax_row, json.loads((ROOT / "benchmarks/results/linear_jax.json").read_text())["rows"]),
    Claim("README.md", "SmolLM2-135M from {:.1f} % to {:.1f} % of held-out sums", lambda: accuracy("smollm2-0")[:2]),
    Claim("README.md", "they make {} of {} clip decisions wrong", lambda: wrong(GPU[2], "naive")),
    Claim(
        "README.md",
        "`gspo_torch.linear_policy_loss` | {:.1f} to {:.1f} | {:.1f} to {:.0f} GiB | {} of {} |",
        lambda: (*times(ALL_GPU, "ours"), *gib(ALL_GPU, "ours"), *wrong(GPU[2], "ours")),
    ),
    Claim(
        "README.md",
        "sequence level | {:.0f} to {:.0f} (TF32 allowed: {:.0f} to {:.0f}) | {:.1f} to {:.1f} GiB | {} of {} |",
        lambda: (*times(ALL_GPU, "liger"), *times(ALL_GPU, "liger tf32"), *gib(ALL_GPU, "liger"), *wrong(GPU[2], "liger")),
    ),
    Claim(
        "README.md",
        "full logits | {:.1f} to {:.1f}; out of memory at 131k tokens | {:.0f} to {:.0f} GiB | {} of {} |",
        lambda: (*times(ALL_GPU, "naive"), *gib(ALL_GPU, "naive"), *wrong(GPU[2], "naive")),
    ),
    Claim(
        "README.md",
        "`gspo_jax.linear_policy_loss` | {:.1f} to {:.1f} | {:.1f} to {:.1f} GiB | {} of {} |",
        lambda: (*times(JAX, "ours"), *gib(JAX, "ours", "temp_mib"), *wrong(JAX, "ours")),
    ),
    Claim(
        "README.md",
        "{:.0f} % of the tokens without a weight | {:.2f} and {:.2f} (Liger: {:.1f} and {:.1f}) | {:.0f} and {:.0f} MiB | 0 |",
        lambda: (
            100 * max(real(lambda row: row["tokens_without_weight"])),
            *real(lambda row: row["cpu_ratios"]["aligned/floor"]["median"]),
            *real(lambda row: row["cpu_ratios"]["aligned/floor"]["median"] / row["cpu_ratios"]["aligned/liger"]["median"]),
            *real(lambda row: row["implementations"]["aligned"]["beyond_gradients_mib"]),
        ),
    ),
    *map(run_row, RUNS),
]


def flat(text: str) -> str:
    """Without line breaks, so that a sentence may be wrapped anywhere; intervals are left open."""
    one_line = re.sub(r"\s+", " ", text)
    return re.sub(r"(\| \+[\d.]+), [\d.]+ to [\d.]+ \|", r"\1, INTERVAL |", one_line)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.template[:40].strip("| `").replace(" ", "-"))
def test_the_page_has_the_records_numbers(claim: Claim) -> None:
    assert claim.text() in flat((ROOT / claim.page).read_text(encoding="utf-8"))


def performance_rows() -> Iterator[str]:
    """The rows of the README's table of performance."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Performance")[1].split("\n## ")[0]
    yield from (line for line in section.splitlines() if line.startswith("| ") and any(c.isdigit() for c in line))


def test_no_row_of_the_performance_table_is_without_a_claim() -> None:
    texts = [claim.text() for claim in CLAIMS if claim.page == "README.md"]
    rows = list(performance_rows())
    assert len(rows) >= 5
    assert [row for row in rows if not any(text in row for text in texts)] == []
