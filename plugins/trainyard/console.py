"""What the command lines have in common: they answer line by line, and explain what went wrong."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from trainyard.errors import TrainyardError


def answer(parser: ArgumentParser, argv: Sequence[str] | None) -> int:
    """Run the command that *argv* names; return 0, or 1 with the error on standard error.

    A command is a function, set as the default ``command`` of its parser: it takes the parsed
    arguments and returns, or yields, the lines of its answer.
    """
    given = parser.parse_args(argv)
    try:
        for line in given.command(given):
            print(line)  # noqa: T201  # what the command answers
    except TrainyardError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
