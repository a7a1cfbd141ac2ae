"""What the generality costs: value and gradient of GSPO on [64, 4096] float32, beside straight-line code of the same loss.

    .venv/bin/python benchmarks/policy_loss.py [--json FILE]

One thread, one process, the two in turn with the order alternating; the ratio is taken pair by pair, so that a change of the
machine's speed cancels. The straight-line code has no checks, masks by multiplication and serves one layout and objective.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gspo_torch
import numpy as np
import torch

import gspo_core
from gspo_core import GSPO, Padded

N, T, LOW, HIGH = 64, 4096, 3e-4, 4e-4
PAIRS = 60

rng = np.random.default_rng(0)
OLD = -rng.exponential(size=(N, T)).astype(np.float32)
LOGP = OLD + (0.02 * rng.normal(size=(N, T))).astype(np.float32)
MASK = np.arange(T)[None, :] < rng.integers(T // 4, T + 1, size=(N, 1))
ADVANTAGE = rng.normal(size=N).astype(np.float32)


def numpy_by_hand() -> Any:
    """Value and weight, written down once for this case."""
    lengths = MASK.sum(-1)
    s = np.exp(((LOGP - OLD) * MASK).sum(-1) / lengths)
    clipped = ((ADVANTAGE > 0) & (s > 1 + HIGH)) | ((ADVANTAGE < 0) & (s < 1 - LOW))
    value = -np.minimum(s * ADVANTAGE, np.clip(s, 1 - LOW, 1 + HIGH) * ADVANTAGE).mean()
    weight = np.where(clipped, 0, -s * ADVANTAGE / lengths / N).astype(np.float32)
    return value, weight[:, None] * MASK


def numpy_ours() -> Any:
    """The core."""
    loss = gspo_core.policy_loss(GSPO, LOGP, OLD, ADVANTAGE, Padded(MASK))
    return loss.value, loss.logp_grad


def torch_pair(compiled: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(ours, by hand): value and gradient through autograd, eager or compiled by inductor."""
    logp = torch.tensor(LOGP, requires_grad=True)
    old, mask, advantage = torch.tensor(OLD), torch.tensor(MASK), torch.tensor(ADVANTAGE)

    def hand_loss(x: torch.Tensor) -> torch.Tensor:
        s = (((x - old) * mask).sum(-1) / mask.sum(-1)).exp()
        return -torch.min(s * advantage, s.clamp(1 - LOW, 1 + HIGH) * advantage).mean()

    def our_loss(x: torch.Tensor) -> torch.Tensor:
        return gspo_torch.policy_loss(GSPO, x, old, advantage, Padded(mask)).value

    def with_gradient(loss: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Any]:
        run = torch.compile(loss, fullgraph=True) if compiled else loss

        def both() -> Any:
            value = run(logp)
            return value.detach().numpy(), torch.autograd.grad(value, logp)[0].numpy()

        return both

    return with_gradient(our_loss), with_gradient(hand_loss)


def compare(ours: Callable[[], Any], by_hand: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds of both and their ratio, medians over pairs, after checking that they agree."""
    for mine, theirs in zip(ours(), by_hand(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-7)
    times: dict[str, list[float]] = {"ours": [], "by hand": []}
    for pair in range(PAIRS + 5):
        order = [("ours", ours), ("by hand", by_hand)]
        for name, run in order if pair % 2 else reversed(order):
            began = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - began))
    mine, theirs = (x[5:] for x in (times["ours"], times["by hand"]))
    ratios = sorted(a / b for a, b in zip(mine, theirs, strict=True))
    return {
        "ours_ms": round(statistics.median(mine), 3),
        "by_hand_ms": round(statistics.median(theirs), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quarter": round(ratios[len(ratios) // 4], 3),
        "ratio_three_quarters": round(ratios[3 * len(ratios) // 4], 3),
    }


def main() -> None:
    """Print the table; keep it with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {"numpy": compare(numpy_ours, numpy_by_hand)}
    for name, compiled in (("torch eager", False), ("torch compiled", True)):
        results[name] = compare(*torch_pair(compiled))
    print(f"GSPO value + gradient, [{N}, {T}] float32, one thread, {PAIRS} pairs")
    for name, row in results.items():
        times = f"ours {row['ours_ms']:7.2f} ms   by hand {row['by_hand_ms']:7.2f} ms"
        spread = f"{row['ratio_quarter']:.2f} to {row['ratio_three_quarters']:.2f}"
        print(f"{name:15s} {times}   ratio {row['ratio']:.2f} ({spread})")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
