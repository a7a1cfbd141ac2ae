"""Tiles of logits in plain PyTorch: the reference of the Triton kernels, and the fallback where they do not run.

A tile is [rows, block of the vocabulary] in float32 (float64 for float64 inputs), in one buffer that all tiles share.
On a GPU with float16 or bfloat16 parameters the products come from the tensor cores with float32 results, and the tile of
gradients is rounded to the parameters' type for the next product; on a CPU, whose low-precision products are slow, tiles
stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .head import Head
from .products import is_of_amd, matmul

LOG2_E = math.log2(math.e)
EXP2 = is_of_amd()
"""Whether PyTorch's exp2 takes less time than its exp, which comes from MKL: half on AMD's processors, 1.5 times on Intel's."""
CACHE = 2**18
"""Number of logits that functions are applied to one after the other: 1 MiB of float32, which stays in a core's cache."""


def compiled(function: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    """The function, compiled into few passes over its tile on a GPU with Triton; unchanged elsewhere."""
    return _compiled(function) if device_type == "cuda" else function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True) if find_spec("triton") else function


class Scores(NamedTuple):
    """Per row, over the part of the vocabulary computed so far."""

    best: Tensor
    """[n] max_v z_v, −∞ over nothing."""
    total: Tensor
    """[n] Σ_v exp(z_v − best)."""
    picked: Tensor
    """[n] z of the row's token, 0 if the token is in another part."""
    weighted: Tensor | None
    """[n] Σ_v exp(z_v − best) z_v, for the entropy."""
    squares: Tensor | None
    """[n] Σ_v exp(z_v − best)², for Σ_v π_v²."""


class Weights(NamedTuple):
    """Per row, the parts of the gradient of its logits: dz_v = c (1[v = token] − p_v) − e p_v (z_v − mean)."""

    c: Tensor
    """[n] ∂value/∂logp."""
    lse: Tensor
    """[n] log Σ_v exp z_v over the whole vocabulary."""
    e: Tensor | None
    """[n] ∂value/∂entropy; None: 0."""
    mean: Tensor | None
    """[n] Σ_v p_v z_v = lse − entropy; None if e is."""

    def rows(self, which: slice | Tensor) -> Weights:
        """Some of the rows."""
        return Weights(*(None if x is None else x[which] for x in self))  # type: ignore[arg-type]  # its own fields, cut


def exponentiate(x: Tensor) -> Tensor:
    """exp(x), in place. In float32 on AMD's processors computed as 2 to the power of x log₂ e, in half of the time there."""
    return x.mul_(LOG2_E).exp2_() if EXP2 and x.dtype == torch.float32 and not x.is_cuda else x.exp_()


def logits(head: Head, rows: Tensor, block: slice, buffer: Tensor) -> Tensor:
    """[n, block] the logits z of a tile, written into the buffer (and a view of it)."""
    width = len(head.weight[block])
    return fill(head, rows, block, buffer[: len(rows) * width].view(len(rows), width))


def fill(head: Head, rows: Tensor, block: slice, tile: Tensor) -> Tensor:
    """The tile [n, block], which becomes the logits z."""
    matmul(rows, head.weight[block].T, tile)
    if head.bias is not None:
        tile += head.bias[block].to(tile.dtype)
    if head.soft_cap is not None:
        tile.div_(head.soft_cap).tanh_().mul_(head.soft_cap)
    return tile if head.temperature == 1.0 else tile.div_(head.temperature)


def strips(tile: Tensor) -> list[slice]:
    """Slices of a tile's rows that stay in a CPU's cache from one function to the next; one slice where kernels are fused."""
    fused = tile.is_cuda or torch.compiler.is_compiling()
    step = max(1, len(tile) if fused else cached_logits(tile.shape[1]) // max(1, tile.shape[1]))
    return [slice(top, top + step) for top in range(0, len(tile), step)]


def cached_logits(width: int) -> int:
    """Number of logits of a strip of a tile of this width; entropies need a copy of them."""
    return max(1, CACHE // max(1, width)) * width


def scores(tile: Tensor, tokens: Tensor, first: int, entropy: bool, squares: bool = False) -> Scores:
    """`tile_scores`, a strip of the tile after the other."""
    score = compiled(tile_scores, tile.device.type)
    found = [score(tile[strip], tokens[strip], first, entropy, squares) for strip in strips(tile)]
    if len(found) == 1:
        return found[0]  # type: ignore[no-any-return]  # compiled() does not keep the type
    return joined(found) if found else tile_scores(tile, tokens, first, entropy, squares)


def joined(parts: list[Scores]) -> Scores:
    """Scores of the rows of all parts, one after the other."""
    columns = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]
    return Scores(*columns)  # type: ignore[arg-type]  # the columns in their order


def tile_scores(tile: Tensor, tokens: Tensor, first: int, entropy: bool, squares: bool = False) -> Scores:
    """Scores of a tile whose first column is the token `first`. Overwrites the tile, with exp(z − best)
    or, if they are wanted, with the squares."""
    here = (tokens >= first) & (tokens < first + tile.shape[1])
    columns = torch.where(here, tokens - first, 0).long()
    picked = torch.where(here, tile.gather(1, columns[:, None])[:, 0], 0.0)
    best = tile.amax(1)
    # A logit of −∞ adds nothing to the entropy: finite, its product with a probability of 0 is 0.
    kept = tile.clamp(min=torch.finfo(tile.dtype).min) if entropy else None
    # A bias of −∞ excludes a token. If it excludes the whole tile, best is −∞, and −∞ − (−∞) would be NaN.
    total = exponentiate(tile.sub_(torch.where(best == -torch.inf, 0.0, best)[:, None])).sum(1)
    weighted = None if kept is None else kept.mul_(tile).sum(1)
    return Scores(best, total, picked, weighted, tile.square_().sum(1) if squares else None)


def merge(a: Scores, b: Scores) -> Scores:
    """Scores over the union of two parts of the vocabulary."""
    best = torch.maximum(a.best, b.best)
    # Over an empty part best is −∞, and its scale is 0.
    scale_a, scale_b = (torch.where(x.best == -torch.inf, 0.0, (x.best - best).exp()) for x in (a, b))
    weighted = None
    if a.weighted is not None and b.weighted is not None:
        weighted = share(scale_a, a.weighted) + share(scale_b, b.weighted)
    squares = None
    if a.squares is not None and b.squares is not None:
        squares = scale_a.square() * a.squares + scale_b.square() * b.squares
    return Scores(best, scale_a * a.total + scale_b * b.total, a.picked + b.picked, weighted, squares)


def share(scale: Tensor, weighted: Tensor) -> Tensor:
    """scale · weighted; 0 of a part whose logits are all so low that their sum may be −∞."""
    return torch.where(scale == 0, 0.0, scale * weighted)


def nothing_seen(rows: Tensor, dtype: torch.dtype, entropy: bool, squares: bool = False) -> Scores:
    """Scores over an empty part of the vocabulary, the neutral element of `merge`."""
    zeros = torch.zeros(len(rows), dtype=dtype, device=rows.device)
    best = torch.full_like(zeros, float("-inf"))
    return Scores(best, zeros, zeros, zeros if entropy else None, zeros if squares else None)


def dlogits(head: Head, rows: Tensor, tokens: Tensor, block: slice, weights: Weights, buffer: Tensor) -> Tensor:
    """[n, block] ∂value/∂(weight · h) of a tile, written into the buffer: through softmax, temperature and soft cap."""
    tile = logits(head, rows, block, buffer)
    here = (tokens >= head.first + block.start) & (tokens < head.first + block.start + tile.shape[1])
    columns = torch.where(here, tokens - head.first - block.start, 0).long()[:, None]
    hit = torch.where(here, weights.c, 0.0)[:, None]
    if head.soft_cap is not None:
        hit = hit * slope(tile.gather(1, columns), head.temperature, head.soft_cap)
    change = compiled(to_gradient, tile.device.type)
    for strip in strips(tile):
        change(tile[strip], weights.rows(strip), head.temperature, head.soft_cap)
    # Outside of the compiled function: inside, the compiler would copy the tile.
    return tile.scatter_add_(1, columns, hit / head.temperature)


def slope(z: Tensor, temperature: float, soft_cap: float) -> Tensor:
    """∂(temperature · z)/∂(weight · h), elementwise: 1 − tanh²."""
    return 1.0 - (z * (temperature / soft_cap)).square()


def to_gradient(tile: Tensor, weights: Weights, temperature: float, soft_cap: float | None) -> None:
    """Replace a tile of logits z by ∂value/∂(weight · h), in place, without the term at the rows' own tokens."""
    steep = None if soft_cap is None else slope(tile, temperature, soft_cap)
    above = None if weights.mean is None else tile - weights.mean[:, None]
    exponentiate(tile.sub_(weights.lse[:, None]))
    factor = weights.c[:, None]
    if weights.e is not None and above is not None:
        # Where the probability is 0 the logit may be −∞, or so low that its product with e is.
        factor = factor + weights.e[:, None] * torch.where(tile == 0, 0.0, above)
    tile.mul_(-factor)
    if steep is not None:
        tile.mul_(steep)
    if temperature != 1.0:
        tile.div_(temperature)
