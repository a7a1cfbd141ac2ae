"""Links for the sources of laws: labels of docs/theory.md, and public issues written as name#number."""

from __future__ import annotations

import re

REPOSITORIES = {
    "AReaL": "areal-project/AReaL",
    "NeMo-RL": "NVIDIA-NeMo/RL",
    "OpenRLHF": "OpenRLHF/OpenRLHF",
    "ROLL": "alibaba/ROLL",
    "Soup": "MakazhanAlpamys/Soup",
    "Trinity-RFT": "agentscope-ai/Trinity-RFT",
    "Tunix": "google/tunix",
    "WeatherGenerator": "ecmwf/WeatherGenerator",
    "grpo-flat": "XU-YIJIE/grpo-flat",
    "ms-swift": "modelscope/ms-swift",
    "prime-rl": "PrimeIntellect-ai/prime-rl",
    "tinker-cloud": "GMISWE/tinker-cloud",
    "trl": "huggingface/trl",
    "verl": "verl-project/verl",
}
"""GitHub repositories by the names that sources use."""

THEORY = re.compile(r"docs/theory\.md, [A-H]\d+(?:(?:, | and | to )[A-H]\d+)*")
LABEL = re.compile(r"\b([A-H])(\d+)\b")
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
DOCUMENTATION = "https://example.org/gspo-core/docs"
"""Where docs/ is published, as pyproject.toml says."""
ISSUE = re.compile(r"\b([A-Za-z][\w-]*)#(\d+)")


def theory_labels(source: str) -> list[str]:
    """The labels of docs/theory.md that a source cites.

    >>> theory_labels("docs/theory.md, A1 to A3 and E1; GSPO eq. 5")
    ['A1', 'A2', 'A3', 'E1']
    """
    labels: list[str] = []
    for citation in THEORY.findall(source):
        for first, last in re.findall(r"([A-H]\d+)(?: to ([A-H]\d+))?", citation):
            labels += [f"{first[0]}{k}" for k in range(int(first[1:]), int((last or first)[1:]) + 1)]
    return labels


def issue_url(name: str, number: str) -> str:
    """The address of name#number. Raises: KeyError for a name that is not in REPOSITORIES."""
    return f"https://github.com/{REPOSITORIES[name]}/issues/{number}"


def as_markdown(source: str) -> str:
    """A source with links, for a page in docs/.

    >>> as_markdown("docs/theory.md, D2; verl#2775")
    'docs/theory.md, [D2](theory.md#d2); [verl#2775](https://github.com/verl-project/verl/issues/2775)'
    """
    cited = THEORY.sub(lambda found: LABEL.sub(r"[\1\2](theory.md#\g<0>)", found[0]), source)
    lower = re.sub(r"theory\.md#\w+", lambda found: found[0].lower(), cited)
    return ISSUE.sub(lambda found: f"[{found[0]}]({issue_url(found[1], found[2])})", lower)


def as_card(escaped: str) -> str:
    """A source in Markdown with links to its issues, papers and entries of docs/theory.md, for a page that is not in docs/.

    >>> as_card("docs/theory.md, D2")
    'docs/theory.md, [D2](https://example.org/gspo-core/docs/theory/#d2)'
    """
    page = f"{DOCUMENTATION}/theory/#"
    cited = THEORY.sub(lambda found: LABEL.sub(lambda x: f"[{x[0]}]({page}{x[0].lower()})", found[0]), escaped)
    papers = ARXIV.sub(lambda found: f"[{found[0]}](https://arxiv.org/abs/{found[1]})", cited)
    return ISSUE.sub(lambda found: f"[{found[0]}]({issue_url(found[1], found[2])})", papers)


def as_html(escaped: str) -> str:
    """An escaped source with links to its issues, papers and entries of docs/theory.md.

    >>> as_html("docs/theory.md, D2")
    'docs/theory.md, <a href="https://example.org/gspo-core/docs/theory/#d2">D2</a>'
    """
    page = f"{DOCUMENTATION}/theory/#"
    cited = THEORY.sub(lambda found: LABEL.sub(lambda x: f'<a href="{page}{x[0].lower()}">{x[0]}</a>', found[0]), escaped)
    papers = ARXIV.sub(lambda found: f'<a href="https://arxiv.org/abs/{found[1]}">{found[0]}</a>', cited)
    return ISSUE.sub(lambda found: f'<a href="{issue_url(found[1], found[2])}">{found[0]}</a>', papers)
