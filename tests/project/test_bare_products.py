"""The floor of the LM head's tables is three matrix products, each computed by the faster library."""

from __future__ import annotations

import bare_products
import pytest
import torch
from bare_products import BareProducts, available, faster


@pytest.mark.parametrize("product", available(), ids=lambda product: product.__name__)
@pytest.mark.parametrize("fresh", [True, False])
def test_every_library_computes_the_same_product(product: bare_products.Product, fresh: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, out = (torch.randn(*shape, generator=generator) for shape in ((48, 32), (32, 24), (48, 24)))
    right = a.double() @ b.double() + (0.0 if fresh else out.double())
    product(a, b, out, fresh)
    torch.testing.assert_close(out.double(), right, rtol=0.0, atol=1e-4)


def test_the_floor_computes_every_tile_of_the_three_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that tiles do not divide: a missing tile would leave a gradient wrong by a whole block."""
    monkeypatch.setattr(bare_products, "TILE", (16, 24))
    generator = torch.Generator().manual_seed(1)
    hidden, head = torch.randn(40, 8, generator=generator), torch.randn(60, 8, generator=generator)
    d_hidden, d_head = BareProducts(hidden, head).run()
    logits = hidden.double() @ head.double().T
    torch.testing.assert_close(d_hidden.double(), logits @ head.double(), rtol=0.0, atol=1e-3)
    torch.testing.assert_close(d_head.double(), logits.T @ hidden.double(), rtol=0.0, atol=1e-3)


def test_the_library_with_less_time_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0, 9.0, 10.0] + [10.0, 13.0, 13.0, 14.0] * 5)  # by turns: mkl takes 3, the other one 1

    def other(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, fresh: bool) -> None:
        bare_products.mkl(a, b, out, fresh)

    monkeypatch.setattr(bare_products, "available", lambda: [bare_products.mkl, other])
    monkeypatch.setattr(bare_products.time, "process_time", lambda: next(clock))
    assert faster(torch.ones(2, 2), torch.ones(2, 2), torch.zeros(2, 2)) is other
