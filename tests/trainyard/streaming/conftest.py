"""A run folder and an installation with a real object store."""

from __future__ import annotations

import pytest

from tests.fixtures.settings import make_settings
from trainyard.paths import RunPaths


@pytest.fixture
def settings(tmp_path, s3_server):
    return make_settings(tmp_path, **s3_server.settings())


@pytest.fixture
def paths(tmp_path):
    made = RunPaths(root=tmp_path / "runs", run_id="run-1")
    made.checkpoints.mkdir(parents=True)
    return made
