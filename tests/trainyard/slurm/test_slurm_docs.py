"""docs/slurm.md tells the truth: its site works, its fields and tests exist, none is left out."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from trainyard.provider import get_provider_info
from trainyard.sites import parse_sites
from trainyard.slurm.site import SlurmSite, Tier

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "slurm.md").read_text()


def block(language: str) -> str:
    """Return the page's only code block of *language*."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return found


def cells(heading: str) -> set[str]:
    """Return the names in the first column of the table after *heading*."""
    table = PAGE.split(heading)[1].split("\n\n")[1]
    return set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines())))


def test_the_example_site_parses_and_has_its_tiers():
    site = parse_sites(block("toml"), "docs/slurm.md")["gpu-cluster"]
    assert site.slurm is not None
    assert site.slurm.tier("production").weight > site.slurm.tier("experiments").weight


def test_every_field_of_a_site_is_documented():
    assert cells("### Fields of") == {field.name for field in fields(SlurmSite)}
    for field in fields(Tier):
        assert field.name == "name" or f"`{field.name}`" in PAGE


def test_every_field_of_the_connection_is_documented_and_the_example_uses_them():
    known = set(get_provider_info()["connection-types"][0]["conn-fields"])
    assert cells("```json") == known
    assert set(json.loads(block("json"))) <= known


def test_the_example_connection_is_accepted(monkeypatch):
    from trainyard.hooks.slurm import access_of_extra

    # The page tells the reader to make this SSH connection first.
    monkeypatch.setenv("AIRFLOW_CONN_GPU_LOGIN", "ssh://somebody@login.example.org")
    access = access_of_extra("gpu_cluster", json.loads(block("json")))
    assert (access.remote, access.folder, access.commands_per_s) == (True, "/opt/slurm/bin", 0.2)


def all_tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M))
    return found


def test_named_tests_exist():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 30
    assert named <= all_tests(), sorted(named - all_tests())


@pytest.mark.parametrize("row", re.findall(r"^\| ([^|]+) \| `test_", PAGE, re.M))
def test_every_guarantee_says_something(row):
    assert len(row.split()) >= 3
