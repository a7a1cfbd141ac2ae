"""Cost of the generality: value and gradient of GSPO on [64, 4096] float32, beside straight-line code of the same loss.

    .venv/bin/python benchmarks/policy_loss.py [--json FILE]

One thread, one process, the two in turn with the order alternating. The ratio is that of the fastest twentieth of the calls,
which other programs have disturbed least; beside it stand the median and the quartiles over pairs, and the ratio of the CPU
times of all calls. On a quiet machine the three agree. The straight-line code is what an engineer
would write for one layout and one objective: no checks, masks by multiplication, the framework's own gradient, and for NumPy
the closed form.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import gspo_torch
import jax
import jax.numpy as jnp
import numpy as np
import torch

import gspo_core
from gspo_core import GSPO, Padded

N, T, LOW, HIGH = 64, 4096, 3e-4, 4e-4
PAIRS, WARM_UP = 1000, 10

rng = np.random.default_rng(0)
OLD = -rng.exponential(size=(N, T)).astype(np.float32)
LOGP = OLD + (0.02 * rng.normal(size=(N, T))).astype(np.float32)
MASK = np.arange(T)[None, :] < rng.integers(T // 4, T + 1, size=(N, 1))
ADVANTAGE = rng.normal(size=N).astype(np.float32)

Run = Callable[[], Any]


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


def torch_pair(compiled: bool) -> tuple[Run, Run]:
    """(ours, by hand): value and gradient through autograd, eager or compiled by inductor."""
    logp = torch.tensor(LOGP, requires_grad=True)
    old, mask, advantage = torch.tensor(OLD), torch.tensor(MASK), torch.tensor(ADVANTAGE)

    def hand_loss(x: torch.Tensor) -> torch.Tensor:
        s = (((x - old) * mask).sum(-1) / mask.sum(-1)).exp()
        return -torch.min(s * advantage, s.clamp(1 - LOW, 1 + HIGH) * advantage).mean()

    def our_loss(x: torch.Tensor) -> torch.Tensor:
        return gspo_torch.policy_loss(GSPO, x, old, advantage, Padded(mask)).value

    def with_gradient(loss: Callable[[torch.Tensor], torch.Tensor]) -> Run:
        run = torch.compile(loss, fullgraph=True) if compiled else loss

        def both() -> Any:
            value = run(logp)
            return value.detach().numpy(), torch.autograd.grad(value, logp)[0].numpy()

        return both

    return with_gradient(our_loss), with_gradient(hand_loss)


def jax_pair() -> tuple[Run, Run]:
    """(ours, by hand): value and gradient in one jitted function; ours is the core's closed form, traced."""
    arrays = [jnp.asarray(x) for x in (LOGP, OLD, ADVANTAGE, MASK)]

    def hand_loss(logp: jax.Array, old: jax.Array, advantage: jax.Array, mask: jax.Array) -> jax.Array:
        s = jnp.exp(((logp - old) * mask).sum(-1) / mask.sum(-1))
        return -jnp.minimum(s * advantage, jnp.clip(s, 1 - LOW, 1 + HIGH) * advantage).mean()

    def our_loss(logp: jax.Array, old: jax.Array, advantage: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss = gspo_core.policy_loss(GSPO, logp, old, advantage, Padded(mask))
        return loss.value, loss.logp_grad

    ours, by_hand = jax.jit(our_loss), jax.jit(jax.value_and_grad(hand_loss))
    return (lambda: jax.block_until_ready(ours(*arrays))), (lambda: jax.block_until_ready(by_hand(*arrays)))


def timed(run: Run) -> tuple[float, float]:
    """(wall, CPU) milliseconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def compare(ours: Run, by_hand: Run) -> dict[str, float]:
    """Milliseconds of both and their ratios, after checking that they agree."""
    for mine, theirs in zip(ours(), by_hand(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-7)
    pairs = []
    for number in range(PAIRS + WARM_UP):
        if number % 2:
            mine = timed(ours)
            pairs.append((mine, timed(by_hand)))
        else:
            theirs = timed(by_hand)
            pairs.append((timed(ours), theirs))
    pairs = pairs[WARM_UP:]
    ratios = sorted(mine[0] / theirs[0] for mine, theirs in pairs)
    fast = [statistics.mean(sorted(wall for wall, _ in times)[: PAIRS // 20]) for times in zip(*pairs, strict=True)]
    figures = {
        "ours_ms": fast[0],
        "by_hand_ms": fast[1],
        "ratio": fast[0] / fast[1],
        "pair_ratio_median": statistics.median(ratios),
        "pair_ratio_quarter": ratios[len(ratios) // 4],
        "pair_ratio_three_quarters": ratios[3 * len(ratios) // 4],
        "cpu_ratio": sum(mine[1] for mine, _ in pairs) / sum(theirs[1] for _, theirs in pairs),
    }
    return {name: round(x, 3) for name, x in figures.items()}


def main() -> None:
    """Print the table; keep it with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"GSPO value + gradient, [{N}, {T}] float32, one thread, {PAIRS} pairs, load {load:.1f}")
    results = {}
    cases: list[tuple[str, Run, Run]] = [("numpy", numpy_ours, numpy_by_hand), ("torch eager", *torch_pair(compiled=False))]
    cases += [("torch compiled", *torch_pair(compiled=True)), ("jax jitted", *jax_pair())]
    for name, ours, by_hand in cases:
        row = results[name] = compare(ours, by_hand)
        times = f"ours {row['ours_ms']:6.3f} ms   by hand {row['by_hand_ms']:6.3f} ms   ratio {row['ratio']:.2f}"
        spread = f"{row['pair_ratio_median']:.2f} ({row['pair_ratio_quarter']:.2f} to {row['pair_ratio_three_quarters']:.2f})"
        print(f"{name:15s} {times}   pairs {spread}   CPU {row['cpu_ratio']:.2f}", flush=True)
    if arguments.json:
        versions = {
            "numpy": np.__version__,
            "torch": torch.__version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        }
        header = {"shape": [N, T], "threads": 1, "cores": os.cpu_count(), "load_average_before": round(load, 2), **versions}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"setting": header, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
