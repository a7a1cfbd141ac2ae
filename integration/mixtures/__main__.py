"""python -m integration.mixtures: the table of docs/moe.md, which families of mixtures have routing replay. Half a minute."""

from __future__ import annotations

import warnings

from gspo_torch.routing.routers import mixture_of
from transformers import logging

from integration.mixtures.claims import measure
from integration.mixtures.tiny import families, tiny

HEAD = "| family | router | routing replay |\n|---|---|---|"


def row(family: str, router: str, verdict: str) -> str:
    """A line of the table."""
    return f"| {family} | {router} | {verdict} |"


def router_of(family: str) -> str:
    """The class of its routers; TypeError if they are none that can be replayed."""
    return ", ".join(sorted({type(router).__name__ for router in mixture_of(tiny(family)).routers}))


def main() -> None:
    """Measures every family."""
    print(HEAD)
    for family in families():
        try:
            found = measure(family)
        except TypeError as error:
            print(row(family, "", f"refused: {error}"), flush=True)
        else:
            print(row(family, ", ".join(found.routers), "yes" if found.right else f"WRONG: {found}"), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    main()
