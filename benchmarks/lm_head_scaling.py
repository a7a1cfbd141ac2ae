"""Time and memory of the LM head against the number of tokens and the vocabulary: linear time, flat memory.

    .venv/bin/python benchmarks/lm_head_scaling.py [--quick] [--out FILE]

float32, one thread, a narrow head (H = 64), every sequence with an advantage and none clipped: nothing is skipped. Each
point is a process of its own, which measures its peak memory and the faster of two runs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from head_cases import Inputs, Shape
from head_implementations import IMPLEMENTATIONS
from head_picture import draw_scaling
from stopwatch import MIB, in_child, machine, peak_of

RESULTS = Path(__file__).parent / "results" / "lm_head_scaling.json"
WIDTH = 64
ALONG = {
    "tokens": [Shape(2**k, WIDTH, 8192) for k in range(10, 17)],
    "vocabulary": [Shape(1024, WIDTH, 2**k) for k in range(15, 19)],
}
QUICK = {"tokens": [Shape(n, 16, 512) for n in (128, 256)]}
SEQUENCE = 64
"""Tokens of each sequence."""
NAIVE_MIB = 4096
"""No naive run whose logits and their copies would need more than this."""


def inputs(shape: Shape) -> Inputs:
    """Random states, tokens and old log-probs; the time does not depend on what they are."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(shape.tokens, shape.hidden, generator=generator)
    head = torch.randn(shape.vocabulary, shape.hidden, generator=generator) / shape.hidden**0.5
    tokens = torch.randint(shape.vocabulary, (shape.tokens,), generator=generator)
    lengths = torch.full((shape.tokens // SEQUENCE,), SEQUENCE)
    x = Inputs(hidden, head, tokens, lengths, torch.zeros(shape.tokens), torch.ones(len(lengths)))
    return Inputs(hidden, head, tokens, lengths, scores(x), torch.ones(len(lengths)))


def scores(x: Inputs) -> torch.Tensor:
    """[T] the log-probs themselves: every ratio is 1."""
    parts = zip(x.hidden.split(256), x.tokens.split(256), strict=True)
    return torch.cat([torch.log_softmax(h @ x.lm_head.T, 1).gather(1, t[:, None])[:, 0] for h, t in parts])


def point(name: str, shape: Shape) -> dict[str, float]:
    """Peak memory and time of one implementation; for a process of its own."""
    IMPLEMENTATIONS[name](inputs(Shape(SEQUENCE, shape.hidden, 5000))).run()
    run = IMPLEMENTATIONS[name](inputs(shape)).run
    times = []

    def timed() -> Any:
        began = time.process_time()
        result = run()
        times.append(time.process_time() - began)
        return result

    result, peak = peak_of(timed)
    gradients = sum(x.nbytes for x in result[1:]) / MIB
    del result
    timed()
    return {"cpu_s": round(min(times), 4), "beyond_gradients_mib": round(peak - gradients, 1)}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small points: does it run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; the picture goes beside it")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out == RESULTS:
        parser.error("--quick: give --out, the committed results are not for small shapes")
    torch.set_num_threads(1)
    where, rows = machine(), []
    for along, shapes in (QUICK if arguments.quick else ALONG).items():
        for shape in shapes:
            for name in ("naive", "two_pass", "aligned"):
                if name == "naive" and 4 * 4 * shape.tokens * shape.vocabulary / MIB > NAIVE_MIB:
                    continue
                found = in_child(lambda name=name, shape=shape: point(name, shape))
                rows.append({"along": along, "implementation": name, **shape._asdict(), **found})
                cost = f"{found['cpu_s']:8.2f} s {found['beyond_gradients_mib']:8.0f} MiB beyond the gradients"
                print(f"{shape.name:16s} {name:9s} {cost}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")
    draw_scaling(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
