"""What the README and the pages tell people to type is what the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from emoe.__main__ import _parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """The lines that begin with emoe, of blocks that are a shell's."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.+?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = re.split(r"\n|&&", block.replace("\\\n", " "))
            found += [line.strip() for line in lines if line.strip().startswith("emoe ")]
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_are_taken(command):
    _, *arguments = shlex.split(command, comments=True)
    options = _parser().parse_args(arguments)
    if asked := getattr(options, "ablate", None):
        from emoe.study.ablations import check

        check(asked)


def test_there_are_some():
    assert len(commands()) > 8


def headings(page: Path) -> set[str]:
    """What links may name after their #, as GitHub spells it."""
    text = re.sub(r"```.+?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for goal, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if not goal.startswith(("http://", "https://")):
            there = page.parent / goal if goal else page
            assert there.exists(), goal
            assert not heading or heading in headings(there), f"{goal}#{heading}"
