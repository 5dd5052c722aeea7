"""Versions of data sets and this node's cache: ``python -m trainyard.datasets --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.cache import Cache, Health
from trainyard.console import answer
from trainyard.datasets import versions as versioned
from trainyard.datasets.cache import cache_of, cached, explained, open_cache
from trainyard.datasets.compare import differences
from trainyard.datasets.manifest import Manifest
from trainyard.errors import ConfigurationError, DatasetError
from trainyard.settings import Settings, load_settings
from trainyard.sites import get_site, load_sites


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 with the error on standard error."""
    return answer(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainyard.datasets", description=__doc__)
    groups = parser.add_subparsers(required=True, metavar="GROUP")
    kept = groups.add_parser("versions", help="name@v1: list, compare, delete")
    commands = kept.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, "list", _list, "every version of a data set", "name")
    _add(commands, "diff", _diff, "what differs between two versions", "old", "new")
    _add(commands, "delete", _delete, "remove a version that no result refers to", "version")
    cache = groups.add_parser("cache", help="this node's copies of prepared data")
    cache.add_argument("--site", help="take folder and limit from this site")
    cache.add_argument("--dir", type=Path, help="folder of the cache, instead of a site")
    cache.add_argument("--limit", default="50%", help="with --dir: bytes, a size, or a share")
    commands = cache.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, "list", _entries, "what it holds, the least recently used first")
    _add(commands, "verify", _verify, "read every byte; damaged entries are set aside", "key?")
    _add(commands, "evict", _evict, "remove an entry that nobody reads", "key")
    _add(commands, "pin", _pin, "keep an entry from eviction", "key")
    _add(commands, "unpin", _unpin, "let an entry be evicted again", "key")
    _add(commands, "fill", _fill, "put a staged data set into it: name or name@v1", "dataset")
    return parser


def _add(commands: Any, name: str, function: Any, text: str, *arguments: str) -> None:
    made = commands.add_parser(name, help=text, description=text)
    made.set_defaults(command=function)
    for argument in arguments:
        optional = argument.endswith("?")
        made.add_argument(argument.rstrip("?"), nargs="?" if optional else None, default="")


def _list(given: argparse.Namespace) -> Iterator[str]:
    settings = load_settings()
    found = versioned.versions(settings, given.name)
    if not found:
        yield f"{given.name}: no version yet; fetch it first"
    for version in found:
        manifest = None if version.deleted else versioned.staged_manifest(settings, version)
        if manifest is None:
            yield f"{version}  {version.digest}  {'deleted' if version.deleted else 'not staged'}"
            continue
        images = " + ".join(f"{count.images:,} {count.split}" for count in manifest.counts)
        yield (
            f"{version}  {version.digest}  {version.registered_at[:10]}  "
            f"{manifest.size_bytes:,} bytes, {images}, {len(manifest.classes)} classes"
        )


def _diff(given: argparse.Namespace) -> list[str]:
    settings = load_settings()
    old, new = (_staged(settings, text) for text in (given.old, given.new))
    return differences(old, new) or ["no difference"]


def _staged(settings: Settings, text: str) -> Manifest:
    """Return the manifest of a version that is staged; fetches nothing."""
    reference = versioned.Reference.parse(text)
    found = versioned.versions(settings, reference.name)
    usable = [version for version in found if not version.deleted]
    for version in reversed(usable):
        if reference.version in {None, version.number}:
            manifest = versioned.staged_manifest(settings, version)
            if manifest is not None:
                return manifest
    raise ConfigurationError(
        f"{text}: not staged; `python -m trainyard.datasets versions list {reference.name}` says "
        "what is"
    )


def _delete(given: argparse.Namespace) -> list[str]:
    version = versioned.delete(load_settings(), given.version)
    return [f"deleted {version} ({version.digest})"]


def _open(given: argparse.Namespace) -> Cache:
    if given.dir is not None:
        return open_cache(given.dir, given.limit)
    if not given.site:
        raise ConfigurationError("which cache: name --site SITE or --dir FOLDER before the command")
    return cache_of(get_site(given.site, load_sites(Path(load_settings().sites_file))))


def _entries(given: argparse.Namespace) -> Iterator[str]:
    cache = _open(given)
    total = 0
    with explained():
        for entry in cache.entries():
            total += entry.size_bytes
            used = datetime.fromtimestamp(entry.used_at, UTC)
            marks = [entry.health, *(["in use"] * entry.in_use), *(["pinned"] * entry.pinned)]
            yield (
                f"{entry.key}  {entry.size_bytes:>15,}  used {used:%Y-%m-%d %H:%M}  "
                f"{', '.join(marks)}  {entry.source}"
            )
        yield f"{total:,} of {cache.limit_bytes:,} bytes; {len(cache.quarantined())} set aside"


def _verify(given: argparse.Namespace) -> Iterator[str]:
    cache, damaged = _open(given), 0
    with explained():
        for key in [given.key] if given.key else [entry.key for entry in cache.entries()]:
            health = cache.verify(key)
            damaged += health is Health.DAMAGED
            yield f"{key}  {health}"
    if damaged:
        raise DatasetError(f"{damaged} entries were damaged; they are filled again when needed")


def _evict(given: argparse.Namespace) -> list[str]:
    with explained():
        cache = _open(given)
        if given.key not in {entry.key for entry in cache.entries()}:
            raise ConfigurationError(f"{given.key}: no such entry; `cache list` names them")
        if not cache.evict(given.key):
            raise ConfigurationError(
                f"{given.key}: a run reads it, or it is pinned; wait for the run or unpin it"
            )
    return [f"evicted {given.key}"]


def _pin(given: argparse.Namespace) -> list[str]:
    with explained():
        _open(given).pin(given.key)
    return [f"pinned {given.key}"]


def _unpin(given: argparse.Namespace) -> list[str]:
    with explained():
        _open(given).pin(given.key, pinned=False)
    return [f"unpinned {given.key}"]


def _fill(given: argparse.Namespace) -> list[str]:
    cache, settings = _open(given), load_settings()
    with cached(_staged(settings, given.dataset), cache, settings) as lease:
        return [f"{'there already' if lease.hit else 'filled'}: {lease.folder}"]


if __name__ == "__main__":
    sys.exit(main())
