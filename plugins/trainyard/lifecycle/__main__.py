"""The object store's lifecycle from a shell: ``python -m trainyard.lifecycle --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from trainyard import s3client
from trainyard.console import answer
from trainyard.lifecycle.apply import compare_lifecycle, ensure_lifecycle
from trainyard.lifecycle.forecast import Forecast, Stored, forecast
from trainyard.lifecycle.policy import Retention, make_policy
from trainyard.lifecycle.render import to_json, to_xml
from trainyard.settings import Settings, load_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 with the error on standard error."""
    return answer(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainyard.lifecycle", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("show", _show, "list the rules and what they would remove or move; changes nothing"),
        ("apply", _apply, "bring the bucket's rules to the settings"),
        ("render", _render, "print the policy: JSON for `mc ilm import`, XML for the S3 API"),
    ):
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=command)
        if name == "show":
            made.add_argument("--in-days", type=int, default=0, help="as it will be in so many")
            made.add_argument("--keys", action="store_true", help="name every object that is due")
        if name == "render":
            made.add_argument("--default", action="store_true", help="without the settings file")
            made.add_argument("form", choices=("json", "xml", "xml-minio"))
    return parser


def _show(given: argparse.Namespace) -> Iterator[str]:
    settings = load_settings()
    policy = make_policy(Retention.of(settings))
    at = datetime.now(UTC) + timedelta(days=given.in_days)
    for line in forecast(_stored(settings), policy, at):
        yield _told(line, policy.warm_tier)
        if given.keys:
            yield from (
                f"    {one.modified_at:%Y-%m-%d} {one.size_bytes:>13,} {one.key}"
                for one in line.due
            )
    found = compare_lifecycle(settings, policy)
    yield f"{found.outcome}: {found.detail}"


def _told(line: Forecast, tier: str) -> str:
    rule = line.rule
    if rule.expire_days is not None:
        fate, verb = f"expires after {rule.expire_days} days", "would go"
    elif rule.warm_days is not None:
        fate, verb = f"moves to {tier} after {rule.warm_days} days", "would move"
    else:
        return f"{rule.prefix:14} kept for good: {line.objects} objects, {line.size_bytes:,} bytes"
    return (
        f"{rule.prefix:14} {fate}: {len(line.due)} of {line.objects} objects, "
        f"{line.due_bytes:,} of {line.size_bytes:,} bytes {verb}"
    )


def _stored(settings: Settings) -> Iterator[Stored]:
    client = s3client.make(settings, s3client.pool(60.0))
    with s3client.Mapped(settings, f"listing bucket {settings.s3_bucket}"):
        for one in client.list_objects(settings.s3_bucket, recursive=True):
            if not one.is_dir and one.last_modified is not None:
                yield Stored(
                    key=one.object_name or "",
                    size_bytes=one.size or 0,
                    modified_at=one.last_modified,
                )


def _apply(given: argparse.Namespace) -> list[str]:
    del given
    done = ensure_lifecycle(load_settings())
    return [f"{done.outcome}: {done.detail}"]


def _render(given: argparse.Namespace) -> list[str]:
    policy = make_policy(Retention() if given.default else Retention.of(load_settings()))
    if given.form == "json":
        return [to_json(policy).rstrip()]
    return [to_xml(policy, minio=given.form == "xml-minio").rstrip()]


if __name__ == "__main__":
    sys.exit(main())
