"""How evenly the responses of a mini-batch are shared out to processes: the slowest process beside the mean, in CPU seconds.

    .venv/bin/python benchmarks/shares.py [--repeats 5] [--quick] [--out FILE]

Lengths are drawn from a log-normal distribution, as those of reasoning are, and cut at the generation budget. Each process's
passes with gradient are run one after the other in this process, in micro-batches by tokens; consecutive parts, as a loop
that cuts the batch would take them, beside those of `share_out`. One thread; CPU time, so that neighbours matter less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stopwatch import machine

from integration.on_torch.micro_batches import by_tokens
from integration.on_torch.parallel.share import share_out
from integration.on_torch.qwen3 import Qwen3Sizes, build_qwen3

SIZES = Qwen3Sizes(vocabulary=512, layers=2, hidden=64, feed_forward=192, heads=4, key_value_heads=2, head=16, tied=True)
RESPONSES, PROMPT, LONGEST, TOKENS = 64, 64, 1024, 4096
RESULTS = Path(__file__).parent / "results" / "shares.json"


def lengths(seed: int, responses: int) -> list[int]:
    """Tokens of each response, prompt included; median 200."""
    drawn = np.random.default_rng(seed).lognormal(np.log(200), 0.8, responses)
    return [PROMPT + int(n) for n in np.clip(drawn, 1, LONGEST)]


def seconds(model: Any, own: list[int]) -> float:
    """CPU seconds of one process's passes with gradient."""
    pieces = by_tokens([(PROMPT, length - PROMPT) for length in own], TOKENS)
    began = time.process_time()
    for piece in pieces:
        width = max(own[index] for index in piece)
        ids = torch.ones(len(piece), width, dtype=torch.int64)
        mask = torch.arange(width)[None, :] < torch.tensor([own[index] for index in piece])[:, None]
        model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits.float().mean().backward()
    return time.process_time() - began


def slowest(model: Any, parts: list[list[int]]) -> float:
    """The slowest process over the mean."""
    found = [seconds(model, part) for part in parts]
    return max(found) / statistics.mean(found)


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="sixteen responses, two processes, once")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = build_qwen3(SIZES, seed=0)
    rows = []
    responses = 16 if given.quick else RESPONSES
    seconds(model, lengths(0, responses)[:4])
    for count in (2,) if given.quick else (2, 4, 8):
        ratios: dict[str, list[float]] = {"share_out": [], "consecutive": []}
        for repeat in range(1 if given.quick else given.repeats):
            costs = lengths(repeat, responses)
            ways = {
                "share_out": [[costs[index] for index in part] for part in share_out(costs, count)],
                "consecutive": [part.tolist() for part in np.array_split(costs, count)],
            }
            for way in sorted(ways, reverse=bool(repeat % 2)):
                ratios[way].append(slowest(model, ways[way]))
        rows.append({"processes": count, **{way: [round(x, 3) for x in sorted(found)] for way, found in ratios.items()}})
        print(json.dumps(rows[-1]))
    given.out.write_text(json.dumps({"machine": machine(), "responses": responses, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
