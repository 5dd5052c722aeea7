"""Command line of the stack in containers: ``python -m trainyard.compose up|down|status|logs``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

_OLDEST = (3, 11)
if sys.version_info < _OLDEST:
    sys.exit(
        "The stack's commands need Python 3.11 or newer, this is "
        f"{'.'.join(map(str, sys.version_info[:3]))}. Next step: make PYTHON=python3.12 up"
    )

from trainyard.compose import stack  # noqa: E402
from trainyard.errors import TrainyardError  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
_INTERRUPTED = 130


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m trainyard.compose", description=__doc__)
    parser.add_argument("--env-file", type=Path, default=ROOT / ".env", help="choices and secrets")
    parser.add_argument("--project", default="trainyard", help="name of the Compose project")
    parser.add_argument("--profiles", default="", help="celery, gpu, slurm, with commas")
    parser.add_argument("--files", default="", help="Compose files, separated by colons")
    parser.add_argument("--tls", action="store_true", help="put the TLS proxy before everything")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start everything and wait until it is well")
    down = commands.add_parser("down", help="stop everything, keep the data")
    down.add_argument("--volumes", action="store_true", help="remove the data, too")
    commands.add_parser("status", help="state, health and address of each service")
    logs = commands.add_parser("logs", help="follow the log of a service, or of all")
    logs.add_argument("service", nargs="?", default="")
    commands.add_parser("certs", help="make or check the certificate of the TLS proxy")
    commands.add_parser("prepare", help="make .env and what containers read, and start nothing")
    return parser.parse_args(arguments)


def run(given: argparse.Namespace) -> int:
    """Run one command; return its exit code."""
    options = stack.Options(root=ROOT, env_file=given.env_file, project=given.project,
                            profiles=given.profiles, tls=given.tls, files=given.files)  # fmt: skip
    if given.command == "up":
        return stack.up(options)
    if given.command == "down":
        return stack.down(options, volumes=given.volumes)
    if given.command == "status":
        return stack.status(options)
    if given.command == "logs":
        return stack.logs(options, given.service)
    if given.command == "certs":
        return stack.certs(options)
    stack.prepare(options)
    return 0


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code, with errors a person can act on."""
    try:
        return run(parse(arguments))
    except TrainyardError as error:
        print(f"error: {error}", file=sys.stderr)
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(error.cmd)} failed; its own words stand above", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted; `make status` shows what runs.", file=sys.stderr)
        return _INTERRUPTED
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
