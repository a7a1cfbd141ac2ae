"""Matrix products, accumulated in their result's dtype and never rounded on the way; which library computes them.

On a GPU float16 and bfloat16 operands meet on the tensor cores with float32 results. On an x86 CPU PyTorch's float32 products
go to MKL. oneDNN, which is in the same builds of PyTorch, takes 4 to 20 % less time (AMD, AVX-512; 4 on an idle machine) where
both operands stand row by row, as in the product of dlogits and head. Its sums are longer, their rounding errors 1.7 times as
large: logits, whose errors every gradient would inherit, stay with MKL. PyTorch asks it for float32 products only in the
operator used here.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOW = (torch.float16, torch.bfloat16)
PIECE = 256
"""Rows that oneDNN computes at a time, into memory of its own."""
UNIT = 128
"""What it is given is divisible by this: it keeps about 0.5 MiB of code for each shape that it has met."""
LEAST = 2**24
"""Multiplications of the smallest piece below which its way there costs more than it gains."""
_MM_TO_FLOAT32 = "dtype" in torch.ops.aten.mm.overloads() and "dtype" in torch.ops.aten.addmm.overloads()
_SCHEMA = "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"


def _find_onednn() -> bool:
    """Whether this PyTorch has the operator as it is called here, on a processor where it was found to be faster."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    packet = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return packet is not None and "default" in packet.overloads() and str(packet.default._schema) == _SCHEMA


ONEDNN = _find_onednn()


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
    """Memory beyond operands and result that a product of [·, k] and [k, n] may take: a piece of both, the right one packed."""
    return (PIECE * (k + n) + k * n) * dtype.itemsize if ONEDNN and dtype == torch.float32 and UNIT * k * n >= LEAST else 0


def _suits_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is to compute the product: what it is given is large, and stands row by row.

    It would copy a transposed left operand; a right one with gaps it multiplies a hundred times slower.
    """
    wanted = ONEDNN and bool(torch.backends.mkldnn.enabled)
    known = a.dtype == torch.float32 and a.device.type == b.device.type == "cpu"
    dense = a.stride(1) == 1 and b.is_contiguous()
    return wanted and known and dense and UNIT * a.shape[1] * b.shape[1] >= LEAST
