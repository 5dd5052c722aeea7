"""The health check that Compose runs in Airflow's containers, against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trainyard.compose import health

GOOD = {"scheduler": {"status": "healthy"}, "triggerer": {"status": "unhealthy"},
        "dag_processor": {"status": None}}  # fmt: skip


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503 if self.path == "/ill" else 200)
            self.end_headers()
            self.wfile.write(b"<html>" if self.path == "/text" else json.dumps(GOOD).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["/"], 0, ""),
        (["/", "scheduler"], 0, ""),
        (["/", "triggerer"], 1, "triggerer is unhealthy"),
        (["/", "dag_processor"], 1, "dag_processor is None"),
        (["/", "worker"], 1, "says nothing of worker"),
        (["/text", "scheduler"], 1, "says nothing of scheduler"),
        (["/ill"], 1, "503"),
    ],
)
def test_health_is_the_answer_and_the_reason_is_told(server, capsys, arguments, code, said):
    assert health.main([server + arguments[0], *arguments[1:]]) == code
    assert said in capsys.readouterr().out


def test_nobody_there_is_not_healthy_and_no_traceback(capsys):
    assert health.main(["http://127.0.0.1:1/"]) == 1
    assert "refused" in capsys.readouterr().out


def test_it_runs_without_site_packages(server):
    """Compose starts it every ten seconds beside measured runs: -S saves most of its start."""
    done = subprocess.run(
        [sys.executable, "-S", str(Path(health.__file__)), f"{server}/"], check=False, timeout=30
    )
    assert done.returncode == 0
