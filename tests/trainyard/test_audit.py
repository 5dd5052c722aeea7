"""`make audit` against a server that speaks OSV's API: what it finds, when it cannot know."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.requirements import need

ROOT = Path(__file__).resolve().parents[2]
AUDIT = ROOT / "requirements" / "audit.py"
FLAW = {
    "id": "GHSA-test-test-test",
    "aliases": ["CVE-2026-0001"],
    "summary": "planted by a test",
    "affected": [
        {
            "package": {"name": "PACKAGE", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
        }
    ],
}


class Advisories:
    """An advisory service that knows what a test plants."""

    def __init__(self):
        self.known = {("jinja2", "2.4.1")}
        self.asked = []
        self.broken = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                query = json.loads(self.rfile.read(length))
                outer.asked.append((query["package"]["name"], query["version"]))
                status, answer = outer.answer(*outer.asked[-1])
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/query"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, name, version):
        if self.broken:
            return 500, b"{}"
        if (name, version) not in self.known:
            return 200, b"{}"
        text = json.dumps({"vulns": [FLAW]}).replace("PACKAGE", name)
        return 200, text.encode()


@pytest.fixture
def advisories():
    service = Advisories()
    yield service
    service.server.shutdown()
    service.server.server_close()


@pytest.fixture(scope="module")
def program():
    path = ROOT / ".trainyard" / "envs" / "audit" / "bin" / "pip-audit"
    need(path.exists(), f"pip-audit is missing ({path}): make audit installs it")


def audit(url, *arguments):
    return subprocess.run(
        [sys.executable, str(AUDIT), "--url", url, *arguments],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def pins(lock):
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines()
    return {tuple(line.split(" ")[0].split("==")) for line in lines if "==" in line.split(" ")[0]}


@pytest.mark.slow
def test_every_pin_of_a_lock_is_asked_for_and_a_clean_one_passes(program, advisories):
    done = audit(advisories.url, "docker-proxy")
    assert done.returncode == 0, done.stderr
    assert "nothing known against any package" in done.stdout
    assert pins("docker-proxy") <= set(advisories.asked)


@pytest.mark.slow
def test_a_planted_flaw_is_found_and_named(program, advisories):
    (victim,) = [pin for pin in pins("docker-proxy") if pin[0] == "aiohttp"]
    advisories.known.add(victim)
    done = audit(advisories.url, "docker-proxy")
    assert done.returncode == 1
    line = f"docker-proxy.txt: aiohttp {victim[1]}: CVE-2026-0001 GHSA-test-test-test"
    assert line in done.stdout
    assert "fixed in 99" in done.stdout


def test_a_service_that_is_away_is_no_success(advisories):
    done = audit("http://127.0.0.1:1/v1/query", "docker-proxy")
    assert done.returncode == 3
    assert "not audited: service unreachable: http://127.0.0.1:1" in done.stderr
    advisories.broken = True
    assert audit(advisories.url, "docker-proxy").returncode == 3


def test_a_service_that_knows_nothing_is_no_success(advisories):
    advisories.known.clear()
    done = audit(advisories.url, "docker-proxy")
    assert done.returncode == 3
    assert "knows nothing about jinja2 2.4.1" in done.stderr


@pytest.mark.slow
def test_a_service_that_fails_half_way_is_no_success(program, advisories):
    ordinary = advisories.answer
    advisories.answer = lambda *asked: ordinary(*asked) if asked[0] == "jinja2" else (503, b"busy")
    done = audit(advisories.url, "docker-proxy")
    assert done.returncode == 3
    assert "not audited: pip-audit on docker-proxy.txt" in done.stderr
