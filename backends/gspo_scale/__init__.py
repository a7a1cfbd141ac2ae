"""Memory per GPU and bytes per optimizer step, from one GPU to a thousand, counted before anything is loaded.

    work = Work(prompt=512, response=8192, dtype="bfloat16", checkpointing=True)
    memory(PRESETS["qwen3-8b"], work, Spread(8, "fsdp"))      # bytes on each GPU, by what they are for
    traffic(PRESETS["qwen3-8b"], work, Spread(8, "fsdp"))     # bytes that each GPU sends in an optimizer step
    best(PRESETS["qwen3-8b"], work, gpus=8, gigabytes=80)     # the layout that fits and sends the least

The command `gspo-scale` prints the same. docs/scaling.md says what of this was measured.
"""

from .held import Memory, activations, memory
from .plans import Spread, Work
from .search import Found, best, spreads
from .sent import Traffic, traffic
from .shapes import PRESETS, Shape, shape_of

__all__ = [
    "PRESETS",
    "Found",
    "Memory",
    "Shape",
    "Spread",
    "Traffic",
    "Work",
    "activations",
    "best",
    "memory",
    "shape_of",
    "spreads",
    "traffic",
]
