"""Pages that speak about the code say what the code says: troubleshooting, theory, gallery, notebook, reference."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import gspo_plots
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from support.pages import DOCS, anchors, run
from support.repository import ROOT
from support.situations import SITUATIONS

from gspo_core import diagnose
from gspo_core.laws.cards.sources import theory_labels
from gspo_core.metrics import FindingKind

CODE = [*(ROOT / "gspo_core").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]


def section(page: str, heading: str) -> str:
    """From a heading of the third level to the next heading."""
    return re.split(r"^#{2,3} ", page.split(f"### {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.slow
def test_troubleshooting_has_every_finding_with_a_sentence_that_diagnose_writes() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert re.findall(r"^### ([A-Z_]+)$", page, flags=re.MULTILINE) == [kind.name for kind in FindingKind]
    examples: dict[FindingKind, str] = {}
    for situation in SITUATIONS:
        for finding in diagnose(situation.metrics(), situation.objective):
            examples.setdefault(finding.kind, finding.sentence)
    for kind in FindingKind:
        own = section(page, kind.name)
        assert f"*{kind.value}*" in own
        assert f"> {examples[kind]}\n" in own


def test_every_formula_that_is_cited_is_on_the_theory_page() -> None:
    cited = {label for path in CODE for label in theory_labels(path.read_text(encoding="utf-8"))}
    assert len(cited) > 25
    assert {label.lower() for label in cited} <= anchors((DOCS / "theory.md").read_text(encoding="utf-8"))


def hook(name: str) -> Any:
    """A script of docs/hooks as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_gallery_has_every_picture_of_gspo_plots_as_its_code_draws_it(tmp_path: Path) -> None:
    matplotlib.use("agg")
    drawn = hook("gallery").draw(tmp_path)
    assert {Path(file).stem for file in drawn} == set(gspo_plots.__all__)
    for file in drawn:
        new, committed = (plt.imread(folder / file) for folder in (tmp_path, DOCS))
        assert new.shape == committed.shape, f"{file}: draw it again with docs/hooks/gallery.py"
        assert np.abs(new - committed).mean() < 0.01, f"{file}: draw it again with docs/hooks/gallery.py"


def test_the_notebook_runs_from_top_to_bottom() -> None:
    matplotlib.use("agg")
    notebook = json.loads((DOCS / "notebooks" / "first-steps.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    scope: dict[str, Any] = {}
    for cell in cells:
        printed = run("".join(cell["source"]), scope, "first-steps.ipynb")
        shown = "".join(line for output in cell["outputs"] for line in output.get("text", []))
        assert printed == shown
    assert len(cells) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["objectives", "metrics"])
def test_examples_in_docstrings_become_code_blocks_on_the_site(name: str) -> None:
    griffe = pytest.importorskip("griffe", reason="only `make docs` installs it")
    docstrings = hook("docstrings")
    module = griffe.load(
        f"gspo_core.{name}", search_paths=[str(ROOT)], extensions=griffe.load_extensions(docstrings.Docstrings)
    )
    text = module["policy_loss" if name == "objectives" else "diagnose"].final_target.docstring.value
    assert "```pycon\n>>> " in text
    assert re.search(r"^\*\*Returns:\*\* ", text, flags=re.MULTILINE)
    assert text.count("```") % 2 == 0


@pytest.mark.slow
def test_the_reference_has_a_page_for_every_public_package_with_all_of_its_names() -> None:
    griffe = pytest.importorskip("griffe", reason="only `make docs` installs it")
    covered = set()
    for page in (DOCS / "reference").glob("*.md"):
        modules = re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        shown = set()
        for name in modules:
            module = griffe.load(name, search_paths=[str(ROOT), str(ROOT / "backends")], resolve_aliases=True)
            shown |= {str(x) for x in module.exports or ()} or {x for x, y in module.members.items() if y.is_public}
        package = importlib.import_module(modules[0])
        assert set(getattr(package, "__all__", ())) <= shown, page.name
        covered |= {*modules}
    public = {
        path.stem if path.suffix else path.name for path in (ROOT / "gspo_core").glob("[!_]*") if path.suffix in ("", ".py")
    }
    assert {f"gspo_core.{name}" for name in public} | {
        "gspo_core",
        "gspo_torch",
        "gspo_jax",
        "gspo_plots",
        "gspo_scale",
    } <= covered
