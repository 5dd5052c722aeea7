"""``python -m trainyard.exporter``: serve Trainyard's metrics to Prometheus until SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trainyard import logs
from trainyard.errors import TrainyardError
from trainyard.exporter.catalogue import Sheet
from trainyard.exporter.queue import queues
from trainyard.exporter.results import Results
from trainyard.exporter.runs import Limits, LiveRuns
from trainyard.exporter.sources import Exporter, Source
from trainyard.settings import load_settings
from trainyard.sites import load_sites

PORT = 9469
_HERE = Path(__file__).resolve().parent


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    limits = Limits()
    parser = argparse.ArgumentParser(prog="python -m trainyard.exporter", description=__doc__)
    parser.add_argument("--settings", type=Path, help="settings.toml; default: TRAINYARD_SETTINGS")
    parser.add_argument("--bind", default=os.environ.get("TRAINYARD_EXPORTER_BIND", "127.0.0.1"),
                        help="default: TRAINYARD_EXPORTER_BIND, else loopback")  # fmt: skip
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one")
    parser.add_argument("--runs-interval", type=float, default=5.0, metavar="S",
                        help="seconds between two looks at the run folders")  # fmt: skip
    parser.add_argument("--results-interval", type=float, default=60.0, metavar="S",
                        help="seconds between two looks at the results database")  # fmt: skip
    parser.add_argument("--max-runs", type=int, default=limits.most,
                        help="runs with series of their own")  # fmt: skip
    parser.add_argument("--keep", type=float, default=limits.keep_s, metavar="S",
                        help="seconds for which an ended run stays visible")  # fmt: skip
    return parser.parse_args(arguments)


def make(options: argparse.Namespace) -> Exporter:
    """Return the exporter that *options* describe, not started."""
    settings = load_settings(options.settings)
    sites = list(load_sites(Path(settings.sites_file)).values())
    fixed = build_info()
    limits = Limits(most=options.max_runs, keep_s=options.keep)
    sources: list[Source] = [
        LiveRuns(sites, limits, interval_s=options.runs_interval),
        Results(settings=settings, interval_s=options.results_interval),
        *queues(sites, fixed),
    ]
    return Exporter(sources, fixed)


def build_info() -> Sheet:
    """Return which Trainyard this is: version, commit and the digest of the image it runs in."""
    sheet = Sheet()
    try:
        number = version("trainyard")
    except PackageNotFoundError:
        number = ""
    commit = os.environ.get("TRAINYARD_COMMIT", "") or _commit()
    image = os.environ.get("TRAINYARD_IMAGE_DIGEST", "")
    sheet.put("trainyard_build_info", 1, number, commit, image)
    return sheet


def _commit() -> str:
    command = ["git", "-C", str(_HERE), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    from prometheus_client import CollectorRegistry, start_http_server

    logs.configure()
    options = parse(arguments)
    try:
        exporter = make(options)
        registry = CollectorRegistry()
        registry.register(exporter)
        server, _ = start_http_server(options.port, options.bind, registry)
    except (TrainyardError, OSError) as error:
        print(f"trainyard.exporter: {error}", file=sys.stderr)  # noqa: T201
        return 2
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    exporter.start()
    logging.info("listening on http://%s:%d/metrics", options.bind, server.server_port)
    over.wait()
    exporter.stop()
    server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
