"""What the documentation names exists: files, folders, make targets, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TARGET = re.compile(r"`make ([a-z][a-z-]*)(?=[ `])")


def targets() -> set[str]:
    lines = (ROOT / "Makefile").read_text().splitlines()
    return {line.split(":")[0] for line in lines if re.match(r"[a-z][a-z-]*:", line)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not link.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_make_targets_exist(page):
    named = set(TARGET.findall(page.read_text()))
    assert named <= targets(), f"{page.name}: {sorted(named - targets())}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page):
    top = "|".join(item.name for item in ROOT.iterdir() if item.is_dir() and item.name[0] != ".")
    named = re.findall(rf"`((?:{top})/[\w./-]*)`", page.read_text())
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, f"{page.name} names {missing}"


def test_the_tree_in_the_readme_is_the_tree_on_disk():
    text = (ROOT / "README.md").read_text()
    tree = text.split("## The tree")[1].split("```")[1]
    folder = [ROOT]
    seen = set()
    for line in tree.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"  +", line.strip())[0].split()
        del folder[depth + 1 :]
        for name in names:
            path = folder[-1] / name
            assert path.exists(), f"the tree names {path.relative_to(ROOT)}"
            seen.add(path)
        folder.append(path)
    shown = {path.name for path in seen if path.parent == ROOT}
    hidden = {"LICENSE", "CONTRIBUTING.md"}
    real = {path.name for path in ROOT.iterdir() if path.name[0] != "."}
    assert real - hidden <= shown, f"missing in the tree: {sorted(real - hidden - shown)}"


def test_every_make_target_says_what_it_does():
    lines = (ROOT / "Makefile").read_text().splitlines()
    rules = [line for line in lines if re.match(r"[a-z][a-z-]*:", line)]
    assert rules
    assert all("## " in line for line in rules), [line for line in rules if "## " not in line]
