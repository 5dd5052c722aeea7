"""Slurm's compact node lists: ``n[1-3,7],gpu02`` and back."""

from __future__ import annotations

import re
from collections.abc import Iterable

from trainyard.slurm.errors import GarbageOutputError

LARGEST = 65536


def expand(text: str) -> tuple[str, ...]:
    """Return the node names of a compact list, in its order, each once.

    Raises ``GarbageOutputError`` for what is no list, or stands for more than 65,536 names.
    """
    names: dict[str, None] = {}
    for part in _split(text):
        for name in _expand_part(part, text):
            names[name] = None
            if len(names) > LARGEST:
                raise GarbageOutputError(f"node list {text[:80]!r}: more than {LARGEST} names")
    return tuple(names)


def _split(text: str) -> list[str]:
    parts, depth, begin = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append(text[begin:index])
            begin = index + 1
    parts.append(text[begin:])
    if depth:
        raise GarbageOutputError(f"node list {text!r}: a bracket without its partner")
    return [part.strip() for part in parts if part.strip()]


def _expand_part(part: str, whole: str) -> list[str]:
    match = re.search(r"\[([^\[\]]*)\]", part)
    if match is None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", part):
            raise GarbageOutputError(f"node list {whole!r}: {part!r} is no node name")
        return [part]
    return [
        name
        for number in _numbers(match[1], whole)
        for name in _expand_part(part[: match.start()] + number + part[match.end() :], whole)
    ]


def _numbers(listed: str, whole: str) -> list[str]:
    found: list[str] = []
    for item in listed.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item.strip())
        if not match or int(match[2] or match[1]) - int(match[1]) > LARGEST:
            raise GarbageOutputError(f"node list {whole!r}: {item!r} is no range")
        width = len(match[1])
        last = int(match[2] or match[1])
        found += [str(number).zfill(width) for number in range(int(match[1]), last + 1)]
    return found


def join(names: Iterable[str]) -> str:
    """Return node names as sbatch's ``--exclude`` takes them: sorted, joined by commas."""
    return ",".join(sorted(set(names)))
