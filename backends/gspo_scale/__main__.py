"""The command gspo-scale: what a run needs on each GPU, and which layout fits, from one GPU to 1,024.

gspo-scale --model qwen3-8b --response 8192 --dtype bfloat16 --checkpointing
gspo-scale --model my-model/ --gpus 8 --parallel fsdp --context 2
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any

from .held import GIB, SPARE
from .plans import Parallel, Spread, Work
from .search import Found, best, found
from .shapes import PRESETS, Shape, shape_of

GPUS = tuple(2**power for power in range(11))


@dataclass(frozen=True)
class Options:
    """Memory per GPU and bytes per optimizer step of a GSPO run, counted from sizes alone. Nothing is loaded or measured."""

    model: str = "qwen3-0.6b"
    """A preset, or a folder or hub id whose config transformers reads."""
    gpus: int | None = None
    """One number of GPUs in place of 1, 2, 4, ... 1,024."""
    gigabytes: float = 80.0
    """Of each GPU, as its maker counts."""
    parallel: Parallel | None = None
    """With --gpus: ddp or fsdp; default: the layout that fits and sends the least."""
    context: int = 1
    """With --parallel: ranks that share the tokens of a sequence."""
    vocabulary: int = 1
    """With --parallel: ranks that share the rows of the LM head."""
    work: Work = field(default_factory=Work)


def main() -> None:
    """Read the command line, print the table; errors are one sentence and status 2."""
    try:
        import tyro  # noqa: PLC0415 (an extra)
    except ImportError:
        sys.exit('gspo-scale needs tyro: pip install "gspo-core[scale]"')
    options = tyro.cli(Options, config=(tyro.conf.OmitArgPrefixes,), prog="gspo-scale")
    try:
        print(report(options))
    except ValueError as error:
        sys.exit(f"gspo-scale: {error}")


def report(options: Options) -> str:
    """What the command prints.

    >>> print(report(Options(gpus=8, parallel="fsdp")).splitlines()[0])
    qwen3-0.6b: 596,049,920 parameters; 256 + 1,024 tokens, 8 × 8 responses, 4 optimizer steps a rollout, float32
    """
    if not 0 < options.gigabytes < math.inf:
        raise ValueError(f"gigabytes: expected a positive number, got {options.gigabytes}")
    shape, work = shape_named(options.model), options.work
    lines = [
        f"{options.model}: {shape.parameters:,} parameters; {work.prompt:,} + {work.response:,} tokens, "
        f"{work.prompts} × {work.group} responses, {work.mini_batches} optimizer steps a rollout, {work.dtype}"
        f"{', checkpointing' if work.checkpointing else ''}"
    ]
    if options.parallel is not None:
        if options.gpus is None:
            raise ValueError("gpus: expected a number of GPUs beside --parallel, got none")
        spread = Spread(options.gpus, options.parallel, options.context, options.vocabulary)
        results = [found(shape, work, spread, options.gigabytes)]
    else:
        if (options.context, options.vocabulary) != (1, 1):
            raise ValueError("context, vocabulary: expected --parallel ddp or fsdp beside them, got none")
        counts = GPUS if options.gpus is None else (options.gpus,)
        results = [best(shape, work, count, options.gigabytes) for count in counts]
    lines += table(results, options.gigabytes)
    return "\n".join(lines)


def table(results: list[Found], gigabytes: float) -> list[str]:
    """A row for each number of GPUs, then the parts of the last one."""
    fits = f"fits {gigabytes:g} GB"
    rows = [f"{'GPUs':>5}  {'layout':<34} {'rows':>5}  {'GiB a GPU':>9}  {'GiB sent a step':>15}  {fits:>11}  largest part"]
    for one in results:
        numbers = f"{one.rows:>5}  {one.needed():>9.1f}  {one.traffic.total / GIB:>15.2f}  {'yes' if one.fits else 'no':>11}"
        rows.append(f"{one.spread.gpus:>5}  {one.spread!s:<34} {numbers}  {one.memory.largest()}")
    last = results[-1]
    rows.append(f"on {last.spread.gpus} GPU(s), on each: {_parts(last.memory)}; {SPARE:g} times the peak is needed")
    if last.spread.gpus > 1:
        rows.append(f"sent by each in an optimizer step: {_parts(last.traffic)}")
    return rows


def _parts(numbers: Any) -> str:
    return ", ".join(f"{name} {_bytes(size)}" for name, size in numbers._asdict().items())


def _bytes(size: int) -> str:
    """With a unit that leaves a few digits."""
    unit, name = next(
        (2**power, name) for power, name in ((30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")) if size >= 2**power or not power
    )
    return f"{size / unit:.3g} {name}"


def shape_named(model: str) -> Shape:
    """A preset, or the sizes in the config of a folder or hub id; ValueError if there is neither."""
    if model in PRESETS:
        return PRESETS[model]
    try:
        import torch  # noqa: PLC0415 (both take seconds)
        from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415
    except ImportError:
        raise ValueError(
            f'model: expected one of {", ".join(PRESETS)}, got {model!r}; to read its config: pip install "gspo-core[scale]"'
        ) from None
    try:
        config: Any = AutoConfig.from_pretrained(model)
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config)
        return shape_of(config.get_text_config(), sum(parameter.numel() for parameter in built.parameters()))
    except Exception as error:  # each family has its own errors for sizes that it cannot have; some have no attention heads
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"model: expected one of {', '.join(PRESETS)}, a folder or a hub id, got {model!r}: {said}") from error


if __name__ == "__main__":
    main()
