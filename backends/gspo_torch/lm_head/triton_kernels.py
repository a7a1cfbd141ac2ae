"""Two Triton kernels: scores without writing a logit to memory, and tiles of ∂value/∂logits. `blocks` is their reference.

Both are matrix products of bfloat16 or float16 operands into float32 accumulators, with an epilogue in registers. They use no
atomics and no locks: the results are the same in every run. Operands are loaded through tensor descriptors (the copy engine on
Hopper, plain loads on older GPUs); entries beyond an edge are read as 0 and not written.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .blocks import Scores, Weights, share
from .head import Head

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Triton's interpreter multiplies bfloat16 incorrectly: it gets operands that were converted to float32."""
SPLITS = 8
"""Parts of the vocabulary that `scores` processes in parallel."""
SCORES_GROUP = 16
"""Row tiles processed at the same time: times SPLITS, about as many programs as a large GPU has cores, so that both the hidden
states and the weights in use stay in its cache."""
DLOGITS_GROUP = 8
"""Row tiles that share the weights of a block."""


def _shape(device: torch.device) -> tuple[int, int, int, int, int]:
    """Rows, columns and depth of a tile, warps and stages that fit into the device's shared memory."""
    if device.type != "cuda":
        return 16, 32, 16, 4, 1
    shared = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    big = shared >= 160 * 1024
    return (128, 256, 64, 8, 3) if big else (64, 128, 64, 4, 3)


@triton.jit
def _exp_tanh(x):
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def _place(row_tiles, others, SHARED: tl.constexpr):
    # Row tiles in groups: programs that run at the same time share both operands.
    job = tl.program_id(0)
    per_group = SHARED * others
    first = (job // per_group) * SHARED
    size = tl.minimum(row_tiles - first, SHARED)
    return first + (job % per_group) % size, (job % per_group) // size


@triton.jit
def _product(a, b, acc, WIDE: tl.constexpr):
    if WIDE:
        return tl.dot(a.to(tl.float32), b.to(tl.float32).T, acc, input_precision="ieee")
    return tl.dot(a, b.T, acc)


@triton.jit
def _to_logits(acc, bias, cols, vocabulary, cap, sharpness, BIAS: tl.constexpr, CAP: tl.constexpr, SHARP: tl.constexpr):
    if BIAS:
        acc += tl.load(bias + cols, mask=cols < vocabulary, other=0.0).to(tl.float32)[None, :]
    if CAP:
        acc = cap * _exp_tanh(acc / cap)
    if SHARP:
        acc = acc * sharpness
    return acc


@triton.jit
def _scores(
    rows_in, weight, bias, tokens, best_out, total_out, picked_out, weighted_out, squares_out,
    num_rows, vocabulary, first, splits, cap, sharpness,
    TILES: tl.constexpr, H: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, SHARED: tl.constexpr,
    BIAS: tl.constexpr, CAP: tl.constexpr, SHARP: tl.constexpr, ENTROPY: tl.constexpr, WIDE: tl.constexpr,
    SQUARES: tl.constexpr,
):  # fmt: skip
    row_tile, split = _place(tl.cdiv(num_rows, ROWS), splits, SHARED)
    row0 = row_tile * ROWS
    rows = row0 + tl.arange(0, ROWS)
    token = tl.load(tokens + rows, mask=rows < num_rows, other=-1) - first
    token = tl.where(token < vocabulary, token, -1)  # no column, not one beyond the edge
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    picked = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS], tl.float32)
    squares = tl.zeros([ROWS], tl.float32)
    for j in tl.range(0, TILES, flatten=True):
        col0 = (split * TILES + j) * COLS
        acc = tl.zeros([ROWS, COLS], tl.float32)
        for k in tl.range(0, H, DEPTH):
            acc = _product(rows_in.load([row0, k]), weight.load([col0, k]), acc, WIDE)
        cols = col0 + tl.arange(0, COLS)
        z = _to_logits(acc, bias, cols, vocabulary, cap, sharpness, BIAS, CAP, SHARP)
        z = tl.where((cols < vocabulary)[None, :], z, float("-inf"))
        highest = tl.maximum(best, tl.max(z, 1))
        # Before the first tile, and in a tile beyond the vocabulary, the maximum is −∞ and must not be subtracted.
        shift = tl.where(highest == float("-inf"), 0.0, highest)
        scale = tl.exp(best - shift)
        best = highest
        picked += tl.sum(tl.where(cols[None, :] == token[:, None], z, 0.0), 1)
        p = tl.exp(z - shift[:, None])
        total = total * scale + tl.sum(p, 1)
        if ENTROPY:
            weighted = tl.where(scale > 0.0, weighted * scale, 0.0) + tl.sum(p * tl.where(p > 0.0, z, 0.0), 1)
        if SQUARES:
            squares = squares * scale * scale + tl.sum(p * p, 1)
    out = split * num_rows + rows
    tl.store(best_out + out, best, mask=rows < num_rows)
    tl.store(total_out + out, total, mask=rows < num_rows)
    tl.store(picked_out + out, picked, mask=rows < num_rows)
    if ENTROPY:
        tl.store(weighted_out + out, weighted, mask=rows < num_rows)
    if SQUARES:
        tl.store(squares_out + out, squares, mask=rows < num_rows)


@triton.jit
def _dlogits(
    rows_in, weight, tile, bias, tokens, c_in, lse_in, e_in, mean_in,
    num_rows, vocabulary, first, cap, sharpness,
    H: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, SHARED: tl.constexpr,
    BIAS: tl.constexpr, CAP: tl.constexpr, SHARP: tl.constexpr, ENTROPY: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row_tile, col_tile = _place(tl.cdiv(num_rows, ROWS), tl.cdiv(vocabulary, COLS), SHARED)
    row0, col0 = row_tile * ROWS, col_tile * COLS
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for k in tl.range(0, H, DEPTH):
        acc = _product(rows_in.load([row0, k]), weight.load([col0, k]), acc, WIDE)
    rows, cols = row0 + tl.arange(0, ROWS), col0 + tl.arange(0, COLS)
    there = rows < num_rows
    z = _to_logits(acc, bias, cols, vocabulary, cap, sharpness, BIAS, CAP, SHARP)
    token = tl.load(tokens + rows, mask=there, other=-1) - first
    c = tl.load(c_in + rows, mask=there, other=0.0)[:, None]
    p = tl.exp(z - tl.load(lse_in + rows, mask=there, other=0.0)[:, None])
    grad = tl.where(cols[None, :] == token[:, None], c, 0.0) - c * p
    if ENTROPY:
        e = tl.load(e_in + rows, mask=there, other=0.0)[:, None]
        above = z - tl.load(mean_in + rows, mask=there, other=0.0)[:, None]
        grad -= e * p * tl.where(p > 0.0, above, 0.0)  # a logit may be −∞
    if CAP:
        tanh = z / (cap * sharpness)
        grad *= 1.0 - tanh * tanh
    if SHARP:
        grad *= sharpness
    tile.store([row0, col0], grad.to(tile.dtype))


def usable(head: Head, rows: Tensor) -> bool:
    """Whether the kernels support these inputs: float16 or bfloat16 on a GPU, rows and weights aligned for descriptors."""
    weight = head.weight
    return (
        (rows.is_cuda or INTERPRETED)
        and rows.dtype == weight.dtype
        and rows.dtype in (torch.float16, torch.bfloat16)
        and min(rows.shape) > 0
        and len(weight) > 0
        and all(x.stride(-1) == 1 and x.stride(0) * 2 % 16 == 0 and x.data_ptr() % 16 == 0 for x in (rows, weight))
    )


def scores(head: Head, rows: Tensor, tokens: Tensor, entropy: bool, squares: bool = False) -> Scores:
    """Scores of all rows over the head's part of the vocabulary."""
    height, width, depth, warps, stages = _shape(rows.device)
    num_rows, vocabulary = len(rows), len(head.weight)
    tiles = triton.cdiv(triton.cdiv(vocabulary, width), SPLITS)
    splits = triton.cdiv(triton.cdiv(vocabulary, width), tiles)
    best, total, picked, weighted, squared = torch.empty(5, splits, num_rows, device=rows.device)
    _scores[(triton.cdiv(num_rows, height) * splits,)](
        TensorDescriptor.from_tensor(rows, [height, depth]), TensorDescriptor.from_tensor(head.weight, [width, depth]),
        tokens if head.bias is None else head.bias, tokens, best, total, picked, weighted, squared,
        num_rows, vocabulary, head.first, splits, *_scalars(head),
        TILES=tiles, H=rows.shape[1], ROWS=height, COLS=width, DEPTH=depth, SHARED=SCORES_GROUP, **_flags(head, entropy),
        SQUARES=squares, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    highest = best.amax(0)
    scale = (best - highest).exp()
    expected = share(scale, weighted).sum(0) if entropy else None
    sum_squares = (scale.square() * squared).sum(0) if squares else None
    return Scores(highest, (scale * total).sum(0), picked.sum(0), expected, sum_squares)


def dlogits(head: Head, rows: Tensor, tokens: Tensor, block: slice, weights: Weights, buffer: Tensor) -> Tensor:
    """[n, block] ∂value/∂(weight · h) of a tile in the parameters' dtype, written into the buffer."""
    height, width, depth, warps, stages = _shape(rows.device)
    weight = head.weight[block]
    num_rows, columns = len(rows), len(weight)
    pitch = triton.cdiv(columns, 8) * 8  # descriptors need rows of a multiple of 16 bytes
    tile = buffer[: num_rows * pitch].view(num_rows, pitch)[:, :columns]
    jobs = triton.cdiv(num_rows, height) * triton.cdiv(columns, width)
    _dlogits[(jobs,)](
        TensorDescriptor.from_tensor(rows, [height, depth]), TensorDescriptor.from_tensor(weight, [width, depth]),
        TensorDescriptor(tile, list(tile.shape), list(tile.stride()), [height, width]),
        tokens if head.bias is None else head.bias[block], tokens, weights.c, weights.lse,
        weights.c if weights.e is None else weights.e, weights.c if weights.mean is None else weights.mean,
        num_rows, columns, head.first + block.start, *_scalars(head),
        H=rows.shape[1], ROWS=height, COLS=width, DEPTH=depth, SHARED=DLOGITS_GROUP, **_flags(head, weights.e is not None),
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return tile


def _scalars(head: Head) -> tuple[float, float]:
    return float(head.soft_cap or 1.0), 1.0 / head.temperature


def _flags(head: Head, entropy: bool) -> dict[str, Any]:
    return {
        "BIAS": head.bias is not None,
        "CAP": head.soft_cap is not None,
        "SHARP": head.temperature != 1.0,
        "ENTROPY": entropy,
        "WIDE": INTERPRETED,
    }
