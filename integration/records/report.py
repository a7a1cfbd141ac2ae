"""A run as one self-contained page: outcome, findings, six plots, answers, clip ranges by length, times, versions, options."""

from __future__ import annotations

import base64
import html
import io
import json
import random
from pathlib import Path

import matplotlib.pyplot as plt

from gspo_core import Clip
from gspo_core.clip_range import LengthBin
from integration.options.config import Config
from integration.records.clip_advice import ranges_by_length
from integration.records.environment import described
from integration.records.findings import findings_of_run
from integration.records.json_lines import Row
from integration.records.plots import captioned, plots
from integration.records.run_folder import RunFolder
from integration.records.transcripts import transcripts

MISMATCH = (
    "log_s_noise_share",
    "noise_floor",
    "noise_floor_share",
    "clipped_by_sampler",
    "clipped_by_old",
    "gate_disagreement",
)


def write_report(folder: RunFolder) -> Path:
    """Write report.html and report.png into the run's folder; returns the page's path. NotWritten as on a full disk."""
    figure, small = plots(folder), io.BytesIO()
    figure.savefig(small, format="png", dpi=110)
    plt.close(figure)
    folder.write("report.png", small.getvalue())
    page = PAGE.format(
        title=html.escape(folder.path.name),
        summary=html.escape(summary(folder)).replace("\n", "<br>"),
        findings=_findings(folder),
        pictures=_pictures(folder),
        lengths=_lengths(folder),
        transcripts=transcripts(folder.path / "transcripts"),
        phases=_phases(folder),
        made_with=_made_with(folder),
        config=html.escape(json.dumps(folder.config(), indent=1)),
    )
    return folder.write("report.html", page)


def summary(folder: RunFolder) -> str:
    """The outcome in a few sentences."""
    metrics, evaluations = folder.rows("metrics.jsonl"), folder.rows("evaluations.jsonl")
    lines = [f"{len(metrics)} rollouts."]
    at = f" (rollout {evaluations[-1]['step']})" if evaluations else ""
    for kind in ("sampled", "greedy"):
        if len(evaluations) >= 2:
            before, after = evaluations[0][kind], evaluations[-1][kind]
            low, high = gain_interval(before, after)
            start, end = (100 * sum(x) / len(x) for x in (before, after))
            lines.append(
                f"Held-out accuracy, {kind}: {start:.1f} % → {end:.1f} %{at}, gain {end - start:+.1f} points "
                f"(95 % interval {low:+.1f} to {high:+.1f}, {len(before)} prompts)."
            )
    if metrics:
        mean = {k: sum(r[k] for r in metrics) / len(metrics) for k in ("clip_fraction", "clip_low", "clip_high")}
        lines.append(
            f"Clip fraction {mean['clip_fraction']:.3f} on average (low {mean['clip_low']:.3f}, high {mean['clip_high']:.3f}), "
            f"largest |log s| {max(r['max_abs_log_s'] for r in metrics):.4f}, "
            f"{sum(r['skipped_steps'] for r in metrics)} optimizer steps skipped."
        )
    advised = [r for r in metrics if r.get("clip_range") is not None]
    if advised:
        predicted, measured = (sum(r[k] for r in advised) / len(advised) for k in ("predicted_clip_fraction", "clip_fraction"))
        low, high = advised[0]["clip_range"]
        lines.append(
            f"Clip fraction predicted {predicted:.3f}, measured {measured:.3f} on average over the {len(advised)} rollouts "
            f"after the pilot, with the range that it advised: {low:.4g} below, {high:.4g} above."
        )
    about = (folder.read_json("task.json") or {}).get("sentences", [])
    return "\n".join([*lines, *_policy(metrics), *_engine(metrics), *about])


def _policy(metrics: list[Row]) -> list[str]:
    """How sure the policy is, and how far it went from its reference, in the first rollout and in the last."""
    quantities = {
        "entropy_per_token": "Entropy per token of the responses that were run",
        "reference_kl_k3_per_token": "KL divergence from the reference per token (k3)",
    }
    known = {name: [r[name] for r in metrics if r.get(name) is not None] for name in quantities}
    return [f"{quantities[n]}: {values[0]:.3g} → {values[-1]:.3g} nats." for n, values in known.items() if values]


def _engine(metrics: list[Row]) -> list[str]:
    """Disagreement of sampling engine and trainer; empty unless an engine sampled."""
    gaps = [(r["sampler_token_std"], r["sampler_ess"]) for r in metrics if "sampler_ess" in r]
    away = [sum(r["flips_engine"]) / len(r["flips_engine"]) for r in metrics if "flips_engine" in r]
    moved = [sum(r["flips_update"][-1]) / len(r["flips_update"][-1]) for r in metrics if "flips_update" in r]
    lines = []
    if gaps:
        spread, effective = (sum(column) / len(gaps) for column in zip(*gaps, strict=True))
        lines.append(f"Sampler to trainer: token log ratios spread by {spread:.4f}, effective sample size {effective:.3f}.")
    noise = [r for r in metrics if "mismatch_noise_floor" in r]
    if noise:
        mean = {k: sum(r[f"mismatch_{k}"] for r in noise) / len(noise) for k in MISMATCH}
        lines.append(
            f"The engine's noise is {mean['log_s_noise_share']:.1%} of the variance of log s. Alone it makes log s "
            f"{mean['noise_floor']:.2g}, {mean['noise_floor_share']:.1%} of the clip range. Of the responses that have an "
            f"advantage {mean['clipped_by_old']:.1%} are clipped; with the engine's log-probs as the old ones it would be "
            f"{mean['clipped_by_sampler']:.1%}, and {mean['gate_disagreement']:.1%} of the decisions would change."
        )
    if away:
        lines.append(f"The trainer's routers would choose {sum(away) / len(away):.2%} of the sampler's experts otherwise.")
    if moved:
        lines.append(f"By the last mini-batch they would choose {sum(moved) / len(moved):.2%} of the old experts otherwise.")
    return lines


def gain_interval(before: list[float], after: list[float], *, draws: int = 4000) -> tuple[float, float]:
    """95 % interval of the gain in points: paired bootstrap over prompts (the responses to a prompt are not independent)."""
    gains = [100 * (b - a) for a, b in zip(before, after, strict=True)]
    generator = random.Random(0)
    means = sorted(sum(generator.choices(gains, k=len(gains))) / len(gains) for _ in range(draws))
    return means[int(0.025 * draws)], means[int(0.975 * draws)]


def _pictures(folder: RunFolder) -> str:
    """Each plot with its caption."""
    found = ""
    for figure, caption in captioned(folder):
        picture = io.BytesIO()
        figure.savefig(picture, format="svg")
        plt.close(figure)
        source = f"data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
        found += (
            f'<figure><img alt="{html.escape(caption)}" src="{source}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        )
    return found


def _findings(folder: RunFolder) -> str:
    """Findings of `diagnose` in the rollouts, most frequent first."""
    lines = findings_of_run(folder.rows("metrics.jsonl"))
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines) or "<li>none</li>"
    return f"<h2>Findings</h2><ul>{items}</ul>"


def _lengths(folder: RunFolder) -> str:
    """A table of what the clip range of the run does to responses of each length."""
    metrics, config = folder.rows("metrics.jsonl"), Config.from_json(folder.config())
    advised = [row for row in metrics if row.get("clip_range") is not None]
    clip = Clip(*advised[-1]["clip_range"]) if advised else config.build_objective().surrogate
    bins = ranges_by_length(advised or metrics, clip) if config.objective == "gspo" else ()
    if not bins:
        return ""
    body = "".join(_length_row(row) for row in bins)
    head = (
        "<tr><th>tokens</th><th>share of responses</th><th>clipped by the run's range</th>"
        "<th>range that would clip as many of them as are clipped overall</th></tr>"
    )
    return f"<h2>Clip range by length</h2><p>{LENGTHS}</p><table>{head}{body}</table>"


def _length_row(row: LengthBin) -> str:
    tokens = f"{row.shortest}" if row.shortest == row.longest else f"{row.shortest} to {row.longest}"
    own = "none" if row.clip is None else f"−{row.clip.low:.3g} … +{row.clip.high:.3g}"
    return "<tr>" + "".join(f"<td>{x}</td>" for x in (tokens, f"{row.share:.1%}", f"{row.common.total:.1%}", own)) + "</tr>"


LENGTHS = (
    "Of the responses that have an advantage, predicted by gspo_core.clip_table from log s of the run: the standard deviation "
    "of log s falls with the root of the length, and one range clips short responses more often than long ones."
)


def _phases(folder: RunFolder) -> str:
    """Where the time went."""
    metrics, evaluations = folder.rows("metrics.jsonl"), folder.rows("evaluations.jsonl")
    phases = [
        ("sampling and scoring", [r["seconds_sampling"] for r in metrics if "seconds_sampling" in r]),
        ("updates", [r["seconds_updating"] for r in metrics if "seconds_updating" in r]),
        ("evaluations", [r["seconds"] for r in evaluations if "seconds" in r]),
    ]
    total = sum(sum(seconds) for _, seconds in phases)
    if not total:
        return ""
    rows = [
        (name, f"{len(seconds)} × {sum(seconds) / len(seconds):.2f} s", f"{sum(seconds):.0f} s, {sum(seconds) / total:.0%}")
        for name, seconds in phases
        if seconds
    ]
    body = "".join("<tr>" + "".join(f"<td>{html.escape(x)}</td>" for x in row) + "</tr>" for row in rows)
    return f"<h2>Time</h2><table><tr><th>phase</th><th>how often, mean</th><th>in all</th></tr>{body}</table>"


def _made_with(folder: RunFolder) -> str:
    rows = described(folder.rows("environment.jsonl"))
    lines = "".join(f"<tr><th>{html.escape(label)}</th><td>{html.escape(text)}</td></tr>" for label, text in rows)
    return f"<h2>Made with</h2><table>{lines}</table>" if lines else ""


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #1a202c; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 1em; }}
figure {{ margin: 0; }} figcaption {{ font-size: 13px; color: #4a5568; }} .right {{ color: #1e7d34; font-weight: 600; }}
img {{ width: 100%; }} table {{ border-collapse: collapse; width: 100%; font-size: 13px; }}
td, th {{ border-top: 1px solid #e2e8f0; padding: 4px 8px; text-align: left; vertical-align: top; }}
pre {{ background: #f7fafc; padding: 1em; overflow: auto; }}
</style></head>
<body><h1>{title}</h1><p>{summary}</p>
{findings}<div class="plots">{pictures}</div>
{transcripts}{lengths}{phases}{made_with}<h2>Configuration</h2><pre>{config}</pre></body></html>
"""
