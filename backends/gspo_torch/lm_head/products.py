"""Matrix products, accumulated in their result's dtype without intermediate rounding, and the choice of the library.

On a GPU, float16 and bfloat16 operands are multiplied on the tensor cores with float32 results. On an x86 CPU PyTorch computes
float32 products with MKL. oneDNN, which is in the same builds of PyTorch, takes 4 to 20 % less time on AMD's processors
(AVX-512; 4 on an idle machine) where both operands are contiguous by rows, as in the product of dlogits and head. On one of
Intel's it took 6 to 14 % more, and there MKL computes everything. oneDNN's sums are longer, and their rounding errors 1.7
times as large: logits, whose errors every gradient would inherit, are computed with MKL. In PyTorch only the operator used
here computes float32 products with oneDNN.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

LOW = (torch.float16, torch.bfloat16)
PIECE = 256
"""Rows that oneDNN computes at a time, into memory that it allocates."""
UNIT = 128
"""The number of rows given to oneDNN is divisible by this: it keeps about 0.5 MiB of code for each shape that it has seen."""
LEAST = 2**24
"""Multiplications in the smallest piece below which calling oneDNN costs more time than it saves."""
_MM_TO_FLOAT32 = "dtype" in torch.ops.aten.mm.overloads() and "dtype" in torch.ops.aten.addmm.overloads()
_SCHEMA = "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"


def _find_onednn() -> bool:
    """Whether this PyTorch has the operator with the expected signature, on a processor with vectors long enough for it."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    packet = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return packet is not None and "default" in packet.overloads() and str(packet.default._schema) == _SCHEMA


def is_of_amd(described: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether it is one of AMD's processors, on which some of MKL's functions were measured to be slower than others."""
    try:
        return "AuthenticAMD" in described.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False  # another system than Linux: not measured


ONEDNN = _find_onednn() and is_of_amd()


def matmul(a: Tensor, b: Tensor, out: Tensor, fresh: bool = True) -> None:
    """out = a @ b, or out += a @ b if not fresh, accumulated in out's dtype."""
    if a.is_cuda and a.dtype == b.dtype and a.dtype in LOW and out.dtype == torch.float32 and _MM_TO_FLOAT32:
        if fresh:
            torch.mm(a, b, out_dtype=torch.float32, out=out)
        else:
            torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
        return
    a, b = a.to(out.dtype), b.to(out.dtype)
    done = len(a) // UNIT * UNIT if _suits_onednn(a, b) else 0
    for top in range(0, done, PIECE):
        part = slice(top, min(top + PIECE, done))
        product = torch.ops.mkldnn._linear_pointwise(a[part], b.T, None, "none", [], "")
        out[part].copy_(product) if fresh else out[part].add_(product)
    if done == len(a) and done:
        return
    if fresh:
        torch.mm(a[done:], b, out=out[done:])
    else:
        torch.addmm(out[done:], a[done:], b, out=out[done:])


def piece_bytes(k: int, n: int, dtype: torch.dtype) -> int:
    """Bytes beyond operands and result that a product of [·, k] and [k, n] may need: a piece of both, the right one packed."""
    return (PIECE * (k + n) + k * n) * dtype.itemsize if ONEDNN and dtype == torch.float32 and UNIT * k * n >= LEAST else 0


def _suits_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is to compute the product: its operands are large and contiguous by rows.

    oneDNN copies a transposed left operand, and takes a hundred times as long for a right operand with gaps.
    """
    wanted = ONEDNN and bool(torch.backends.mkldnn.enabled)
    known = a.dtype == torch.float32 and a.device.type == b.device.type == "cpu"
    dense = a.stride(1) == 1 and b.is_contiguous()
    return wanted and known and dense and UNIT * a.shape[1] * b.shape[1] >= LEAST
