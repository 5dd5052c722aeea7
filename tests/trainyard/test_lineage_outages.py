"""A tracking server that is down, hangs or is none: told soon, with the way on."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fixtures.samples import make_run, make_settings
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.lineage import record_run
from trainyard.lineage.client import TrackingClient


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_down_is_told_quickly_and_with_the_way_on(tmp_path):
    down = make_settings(f"http://user:hush@127.0.0.1:{closed_port()}", tmp_path)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"run run-1 is kept .*lineage replay") as caught:
        record_run(down, make_run(), None)
    assert time.monotonic() - began < 10
    assert "hush" not in str(caught.value)


def test_a_server_that_hangs_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = TrackingClient(f"http://127.0.0.1:{listener.getsockname()[1]}", read_s=0.2)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="does not answer"):
            client.experiment_id("any")
        assert time.monotonic() - began < 10
        client.close()


@pytest.mark.slow
def test_an_address_that_is_no_tracking_server_is_told(mlflow_server):
    with pytest.raises(ConfigurationError, match="must be the http or https address"):
        TrackingClient("mlflow:5000")
    client = TrackingClient(f"{mlflow_server.url}/elsewhere")
    with pytest.raises((ConfigurationError, UnavailableError), match="tracking server"):
        client.experiment_id("any")
    client.close()


def test_recording_needs_neither_the_mlflow_package_nor_its_environment():
    """Importing it takes seconds of CPU in every task, beside a run under measurement."""
    code = (
        "import os, sys; before = dict(os.environ); import trainyard.lineage.client as c; "
        "c.TrackingClient('http://localhost:1'); "
        "assert not {'mlflow', 'pandas', 'numpy', 'requests'} & set(sys.modules), sys.modules; "
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_broken_site_file_costs_a_replay_the_files_and_is_told(tmp_path, monkeypatch, capsys):
    from tests.fixtures.settings import make_settings as on_disk
    from trainyard.lineage.__main__ import main
    from trainyard.store import migrate, open_store

    settings = on_disk(tmp_path)
    monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
    Path(settings.sites_file).write_text("[local\n")
    with open_store(settings.results_url) as store:
        migrate(store)
    assert main(["replay"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "nothing to do\n"
    assert "note: " in shown.err
    assert str(settings.sites_file) in shown.err
    assert "without the files of their folders" in shown.err
