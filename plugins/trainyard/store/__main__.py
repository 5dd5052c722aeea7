"""The results database from a shell: ``python -m trainyard.store --help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from trainer.contract import encode
from trainyard.console import answer
from trainyard.errors import ConfigurationError
from trainyard.settings import load_settings
from trainyard.store.files import column_types, queries
from trainyard.store.store import migrate, open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 with the error on standard error."""
    return answer(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainyard.store", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(
        commands, "migrate", _migrate, "bring the database up to this Trainyard's schema"
    ).add_argument(
        "url", nargs="?", help="results database; default: results_url of the settings file"
    )
    _add(commands, "queries", _queries, "list the named questions and their parameters")
    asking = _add(commands, "query", _query, "answer one question, one JSON object per line")
    asking.add_argument("question", help="a name that `queries` lists")
    asking.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    asking.add_argument("--url", help="results database; default: results_url of the settings file")
    return parser


def _add(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    made.set_defaults(command=function)
    return made


def _url(given: argparse.Namespace) -> str:
    return given.url or load_settings().results_url


def _migrate(given: argparse.Namespace) -> list[str]:
    with open_store(_url(given)) as store:
        return [f"applied {name}" for name in migrate(store)] or ["nothing to do"]


def _queries(given: argparse.Namespace) -> list[str]:
    del given
    return [
        f"{name}({', '.join(query.parameters)}): {query.question}"
        for name, query in queries().items()
    ]


def _query(given: argparse.Namespace) -> list[str]:
    params = dict(_parameter(word) for word in given.parameters)
    with open_store(_url(given)) as store:
        return [
            json.dumps({key: encode(value) for key, value in row.items()}, ensure_ascii=False)
            for row in store.query(given.question, **params)
        ]


def _parameter(word: str) -> tuple[str, str | int]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ConfigurationError(f"parameter {word!r}: write NAME=VALUE")
    whole = name == "limit" or column_types().get(name) == "BIGINT"
    if whole and not value.isdecimal():
        raise ConfigurationError(f"parameter {name} = {value!r}: must be a whole number")
    return name, int(value) if whole else value


if __name__ == "__main__":
    sys.exit(main())
