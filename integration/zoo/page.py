"""docs/models.md from the record of a sweep."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers

from integration.zoo.sweep import families
from integration.zoo.trial import ALLOWED, COUNT, LONGEST, PROMPTS, TEMPERATURE, Trial

ROOT = Path(__file__).parents[2]
RECORD, PAGE = ROOT / "docs" / "results" / "models.json", ROOT / "docs" / "models.md"
TEXT = """# Which models the PyTorch script trains

`python -m integration.model_zoo --write` writes this page. It takes every family that transformers {transformers} lists as a
causal language model, {families} in all, and builds it with about four layers of width 32, random weights, and logits of
standard deviation 3. It is saved, loaded as `integration/train_torch.py --model FOLDER` loads it, checked as that script
checks it, and draws {prompts} prompts of different lengths × {count} responses of 1 to {longest} tokens at temperature
{temperature}. The record is [models.json](results/models.json); PyTorch {torch}, CPU, float32.

{headline}

The oracle is log_softmax of the model's own logits of each text alone, without padding, positions or a cache; it shares no
code with the script.

| column | what it is | a family is wrong from |
|---|---|---|
| reading | how the script samples and scores, see below | |
| log-prob | the training pass against the oracle, worst token, nats | {logp:g} |
| gradient | of a random combination of log-probs, all parameters together: norm of the error over the norm | {gradient:g} |
| sampler | log-probs that the sampler drew with against the oracle, worst token, nats | {sampler:g} |
| s | seconds for all of it, on one core | |

The script tries three readings before it trains, from the fastest, and takes the first that is right: padded, with a KV cache;
padded, without a cache, where every new token reads its whole text again, for layers that keep a state; and one length at a
time, each in a forward pass of its own, for models that know no padding on the left or count positions in another way.

A tiny random model shows whether the computation is the model's own. It does not show that a family's real weights train well.
Routes of mixtures are another page: [routing replay](moe.md).

## Right

| family | reading | log-prob | gradient | sampler | s |
|---|---|---|---|---|---|
{right}

## Refused, or not built

Refused is what the script says before there is a run folder. Not built: no tiny configuration by the rules of
`integration/zoo/sizes.py`; nothing is known about the family.

| family | verdict | reason |
|---|---|---|
{others}
"""


def record_of(trials: list[Trial]) -> dict[str, Any]:
    """What is kept of a sweep."""
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {"versions": versions, "families": [dataclasses.asdict(trial) for trial in trials]}


def render(record: dict[str, Any]) -> str:
    """The page."""
    trials = sorted((Trial(**row) for row in record["families"]), key=lambda trial: trial.family)
    right = [trial for trial in trials if trial.verdict == "right"]
    others = [trial for trial in trials if trial.verdict != "right"]
    return TEXT.format(
        **record["versions"], **ALLOWED, families=len(trials), prompts=PROMPTS, count=COUNT, longest=LONGEST,
        temperature=TEMPERATURE, headline=headline(trials), right="\n".join(map(_right, right)),
        others="\n".join(f"| {t.family} | {t.verdict} | {_cell(t.reason)} |" for t in others),
    )  # fmt: skip


def headline(trials: list[Trial]) -> str:
    """How many of each verdict, and how the right ones are read."""
    verdicts = Counter(trial.verdict for trial in trials)
    readings = Counter(trial.reading for trial in trials if trial.verdict == "right")
    ways = "; ".join(f"{count} {name}" for name, count in readings.most_common())
    silent = verdicts["wrong"] + verdicts["traceback"] + verdicts["out of time"]
    return (
        f"**{verdicts['right']} families are right** ({ways}).\n{verdicts['refused']} are refused with the reason, "
        f"{verdicts['not built']} were not built, and {silent} are silently wrong, end in a traceback or hang."
    )


def write(trials: list[Trial]) -> list[Path]:
    """The record and the page; rows that were not tried stay, if they are of the same versions."""
    record = record_of(trials)
    tried = {trial.family for trial in trials}
    saved = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else record
    if saved["versions"] == record["versions"]:
        kept = [row for row in saved["families"] if row["family"] not in tried and row["family"] in families()]
        record["families"] = sorted(record["families"] + kept, key=lambda row: row["family"])
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(render(record))
    return [RECORD, PAGE]


def _right(trial: Trial) -> str:
    errors = (f"{x:.0e}" for x in (trial.logp, trial.gradient, trial.sampler) if x is not None)
    return f"| {trial.family} | {trial.reading} | {' | '.join(errors)} | {trial.seconds:g} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
