"""Runs in real containers, removed at the end of their test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.docker_runs import Run


@pytest.fixture
def runs(tmp_path: Path, shell_image: str):
    made: list[Run] = []

    def make(body: str, **options: Any) -> Run:
        made.append(Run(tmp_path, options.pop("image", shell_image), body, **options))
        return made[-1]

    yield make
    for run in made:
        run.remove()
