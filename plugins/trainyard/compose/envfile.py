"""``.env``: made once with random secrets, never overwritten, completed when Trainyard grows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from trainyard.compose.keys import FORMAT, KEYS, Key
from trainyard.errors import ConfigurationError
from trainyard.files import one_at_a_time

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_HEAD = (
    "# The stack's choices and secrets. `make up` made it; it adds missing lines, changes none.\n"
    "# Keep it: without it the data in the volumes cannot be opened. Never commit or share it.\n"
)


def parse(text: str, source: str) -> dict[str, str]:
    """Return the values of an env file; one pair of quotes around a value is taken off.

    Raises ``ConfigurationError`` naming *source* and line for one that is no ``NAME=value``.
    """
    values: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if not found:
            raise ConfigurationError(
                f"{source}, line {number}: {line.split('=')[0][:40]!r} is no NAME=value; correct "
                "the line or put a # before it"
            )
        values[found[1]] = _unquoted(found[2])
    return values


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def checked(values: Mapping[str, str], source: str) -> dict[str, str]:
    """Return *values*, or raise for a file of a newer format or with a secret that is none."""
    found = values.get("TRAINYARD_ENV", FORMAT)
    if found != FORMAT:
        raise ConfigurationError(
            f"{source}: TRAINYARD_ENV = {found!r}, this Trainyard writes format {FORMAT}: the file "
            "belongs to another version. Check out that version, or move the file away and start "
            "afresh with `make down VOLUMES=1`"
        )
    for key in KEYS:
        if key.secret and key.name in values and not values[key.name]:
            raise ConfigurationError(
                f"{source}: {key.name} is empty ({key.text}); give it a value, or remove the line "
                "and run `make up`, which fills in a random one"
            )
    return dict(values)


def missing(values: Mapping[str, str]) -> list[Key]:
    """Return the keys that a file lacks, in their order."""
    return [key for key in KEYS if key.name not in values]


def lines(keys: list[Key]) -> str:
    """Return new lines for *keys*, each below what it is."""
    return "".join(f"\n# {key.text}\n{key.name}={_quoted(key.make())}\n" for key in keys)


def _quoted(value: str) -> str:
    return f"'{value}'" if " " in value or "*" in value else value


def load(path: Path) -> dict[str, str]:
    """Return the values in *path*; empty when there is no such file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    return checked(parse(text, str(path)), str(path))


def ensure(path: Path) -> tuple[dict[str, str], list[str]]:
    """Make *path* or add what it lacks; return its values and the names that were added.

    The file is replaced in one step and never becomes readable for anybody but its owner; existing
    lines stay as they are, byte for byte. Two commands at once make one file.
    """
    lock = path.parent / ".trainyard" / "env.lock"
    with one_at_a_time(lock, f"writing {path}", wait_s=30):
        values = load(path)
        added = missing(values)
        if added:
            old = path.read_text() if path.exists() else _HEAD
            write_private(path, old + ("" if old.endswith("\n") else "\n") + lines(added))
            values = load(path)
        else:
            path.chmod(0o600)
    return values, [key.name for key in added]


def write_private(path: Path, text: str | bytes, mode: int = 0o600) -> None:
    """Replace *path* in one step by a file with *mode*, whatever the process's umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(text.encode() if isinstance(text, str) else text)
        os.fchmod(stream.fileno(), mode)
    partial.replace(path)
