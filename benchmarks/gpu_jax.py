"""The LM head of gspo_jax on one GPU: correctness against float64, then time and memory beside naive jitted code.

    python benchmarks/gpu_jax.py --json FILE       on a GPU, about 3 minutes
    python benchmarks/gpu_jax.py --check           small shapes, correctness only, also on a CPU

Needs jax, torch, numpy and this package. Inputs, float64 truth and the unit of time (three bare matrix products of the same
size, by cuBLAS) are gpu.py's. A call is one jitted program: value and gradients of GSPO from hidden states and head.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch makes the inputs, and wants memory, too

import gpu
import gspo_jax
import jax
import jax.numpy as jnp
import torch

from gspo_core import GSPO, Padded

Program = Callable[..., Any]


def ours(hidden: Any, head: Any, tokens: Any, old_logp: Any, advantage: Any) -> Any:
    """linear_policy_loss as it comes."""
    layout = Padded(jnp.ones(tokens.shape, dtype=bool))

    def value(hidden: Any, head: Any) -> Any:
        return gspo_jax.linear_policy_loss(GSPO, hidden, head, tokens, old_logp, advantage, layout).value

    return jax.grad(value, argnums=(0, 1))(hidden, head)


def naive(hidden: Any, head: Any, tokens: Any, old_logp: Any, advantage: Any) -> Any:
    """Full logits, rounded to the parameters' type as a Dense layer does, log_softmax in float32."""

    def value(hidden: Any, head: Any) -> Any:
        logits = (hidden @ head.T).astype(jnp.float32)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
        s = jnp.exp(jnp.mean(logp - old_logp, axis=1))
        return -jnp.mean(jnp.minimum(s * advantage, jnp.clip(s, 1 - gpu.LOW, 1 + gpu.HIGH) * advantage))

    return jax.grad(value, argnums=(0, 1))(hidden, head)


PROGRAMS: dict[str, Program] = {"ours": ours, "naive": naive}


def to_jax(x: gpu.Problem) -> tuple[Any, ...]:
    """Without a copy."""
    return tuple(jnp.from_dlpack(part.detach().contiguous()) for part in x._replace(tokens=x.tokens.int()))


def in_torch(program: Program) -> gpu.Implementation:
    """A program as gpu.check wants it."""

    def run(x: gpu.Problem) -> gpu.Gradients:
        hidden, head = jax.block_until_ready(jax.jit(program)(*to_jax(x)))
        return torch.from_dlpack(hidden), torch.from_dlpack(head)

    return run


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """(median, spread) of the milliseconds until everything is computed, after one warm-up."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), max(times) - min(times)


def measure(tokens: int, width: int, skip: float, repeats: int) -> Iterator[Any]:
    """Time and memory of each program on one shape."""
    length = 1024 if tokens == 8192 else 2048
    problem = gpu.problem(tokens // length, length, width, gpu.VOCABULARY, "cuda", skip=skip)
    base, spread = gpu.timed(lambda: gpu.floor(problem), repeats)
    shape = {"tokens": tokens, "width": width, "skip": skip}
    yield {"kind": "floor", **shape, "ms": base, "spread_ms": spread}
    x = to_jax(problem)
    torch.cuda.empty_cache()
    for name, program in PROGRAMS.items():
        record: dict[str, Any] = {"kind": "time", "name": name, **shape}
        with gpu.failure_is_a_result(record):
            compiled = jax.jit(program).lower(*x).compile()
            record["temp_mib"] = compiled.memory_analysis().temp_size_in_bytes / gpu.MIB
            record["ms"], record["spread_ms"] = timed(partial(compiled, *x), repeats)
            record["times_floor"] = record["ms"] / base
        yield record


def checks(n: int, length: int, width: int, vocabulary: int, device: str) -> Iterator[Any]:
    """Errors with parameters in bfloat16, and in float32 that holds the same numbers."""
    programs = {name: in_torch(program) for name, program in PROGRAMS.items()}
    for dtype in (torch.bfloat16, torch.float32):
        for found in gpu.check(n, length, width, vocabulary, device, programs, dtype):
            yield found | {"dtype": str(dtype)}


def schedule(seconds: float) -> Iterator[Any]:
    """Everything worth knowing first, so that a limit cuts the least."""
    start = time.perf_counter()
    yield from checks(256, 64, 2048, gpu.VOCABULARY, "cuda")
    for tokens in (8192, 32768):
        for width in (2048, 4096, 1024):
            for skip in (0.0, 0.5):
                if time.perf_counter() - start > seconds:
                    yield {"kind": "cut", "tokens": tokens, "width": width, "skip": skip}
                    continue
                yield from measure(tokens, width, skip, repeats=7 if tokens == 8192 else 3)


def main() -> None:
    """Prints a line of JSON per finding; --json keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="correctness on small shapes only")
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds after which no new shape is begun")
    options = parser.parse_args()
    on_gpu = jax.default_backend() == "gpu"
    if not options.check and not on_gpu:
        parser.error("no GPU found; --check runs on a CPU")
    record: dict[str, Any] = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "findings": []}
    for finding in checks(16, 8, 64, 1000, "cuda" if on_gpu else "cpu") if options.check else schedule(options.limit):
        record["findings"].append(finding)
        print(json.dumps(finding), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
