"""Command line of the local stack: ``python -m trainyard.local demo|serve``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trainyard.errors import TrainyardError
from trainyard.local.state import REPOSITORY

_INTERRUPTED = 130


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m trainyard.local", description=__doc__)
    parser.add_argument("--state", type=Path, default=REPOSITORY / ".trainyard" / "demo",
                        help="folder for everything the stack writes")  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="run the demo study and print where the report is")
    demo.add_argument("--keep", action="store_true", help="leave the stack running until Ctrl-C")
    demo.add_argument("--dataset", default="digits", help="data set of the study")
    demo.add_argument("--preset", default="demo", help="size of the study")
    demo.add_argument("--site", default="local", help="where the runs happen")
    serve = commands.add_parser("serve", help="run the stack until Ctrl-C")
    serve.add_argument("--site", default="local", help="slurm: with a throw-away cluster; docker")
    serve.add_argument("--schedule", default="0 2 * * *", help="cron line of the nightly benchmark")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code, with errors a person can act on."""
    options = parse(arguments)
    from trainyard.local.demo import demo, serve

    try:
        if options.command == "serve":
            return serve(options.state, schedule=options.schedule, site=options.site)
        conf = {"site": options.site, "dataset": options.dataset, "preset": options.preset}
        return demo(options.state, keep=options.keep, conf=conf)
    except TrainyardError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: everything is stopped.", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
