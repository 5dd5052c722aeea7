"""Rules for what a container may mount: named volumes, listed folders, tmpfs."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from trainyard.dockerproxy.fields import (
    Check,
    boolean,
    checked,
    labels,
    never,
    one_of,
    whole,
)
from trainyard.dockerproxy.policy import Policy, matches_any
from trainyard.dockerproxy.refusal import RefusedError

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_TMPFS_OPTION = re.compile(
    r"rw|ro|noexec|exec|nosuid|nodev|(size|mode|uid|gid)=[0-9]{1,15}[kmgKMG]?"
)
_BIND_OPTIONS = {"rw", "ro", "z", "Z", "rprivate", "private", "nocopy"}
_DRIVER = "a volume's driver and its options can make it any folder of the host"


def host_path(field: str, value: Any, policy: Policy) -> str:
    """Return the host folder *value* if it may be bound."""
    if not isinstance(value, str) or not is_plain_path(value):
        raise RefusedError(field, value, "must be an absolute path without .., // or control signs")
    if value in policy.binds:
        return value
    for prefix in policy.binds_below:
        if value.startswith(f"{prefix}/"):
            _refuse_links(field, value, prefix)
            return value
    allowed = [*policy.binds, *(f"{prefix}/…" for prefix in policy.binds_below)]
    raise RefusedError(
        field, value, f"may not be bound; allowed are {', '.join(allowed) or 'named volumes only'}"
    )


def is_plain_path(path: str) -> bool:
    """Return whether *path* is absolute and means what it says."""
    return (
        path.startswith("/")
        and str(PurePosixPath(path)) == path
        and not path.startswith("//")
        and ".." not in PurePosixPath(path).parts
        and path.isprintable()
        and ":" not in path
    )


def _refuse_links(field: str, value: str, prefix: str) -> None:
    """A container may have left a link to ``/`` in a folder it could write; the engine follows it.

    Between this look and the engine's, a container that still runs could exchange a folder for a
    link: docs/security.md says why ``binds`` and volumes are the better choice.
    """
    walked = Path(prefix)
    for part in ("", *PurePosixPath(value).relative_to(prefix).parts):
        walked /= part
        try:
            mode = os.lstat(walked).st_mode
        except OSError as error:
            raise RefusedError(
                field, value, f"the proxy cannot see {walked} ({error.strerror}): it must exist, "
                "and be mounted into the proxy at the same path, read-only",
            ) from error  # fmt: skip
        if not stat.S_ISDIR(mode):
            raise RefusedError(field, value, f"{walked} is not a plain folder, perhaps a link")


def volume_name(field: str, value: Any, policy: Policy) -> str:
    """Return the named volume *value* if it may be mounted."""
    if not isinstance(value, str) or not _VOLUME_NAME.fullmatch(value):
        raise RefusedError(field, value, "must be the name of a volume")
    if not matches_any(policy.volumes, value):
        allowed = ", ".join(policy.volumes) or "none"
        raise RefusedError(field, value, f"may not be mounted; allowed volumes: {allowed}")
    return value


def _target(field: str, value: Any, _: Policy) -> str:
    if not isinstance(value, str) or not is_plain_path(value) or value == "/":
        raise RefusedError(field, value, "must be an absolute path inside the container")
    return value


def binds(field: str, value: Any, policy: Policy) -> list[str]:
    """Check ``HostConfig.Binds``: ``source:target[:options]``."""
    if not isinstance(value, list):
        raise RefusedError(field, value, "must be a list")
    return [_bind(f"{field}[{place}]", item, policy) for place, item in enumerate(value)]


def _bind(field: str, value: Any, policy: Policy) -> str:
    parts = value.split(":") if isinstance(value, str) else []
    if len(parts) not in {2, 3}:
        raise RefusedError(field, value, "must be source:target or source:target:options")
    check = host_path if parts[0].startswith("/") else volume_name
    check(field, parts[0], policy)
    _target(field, parts[1], policy)
    options = parts[2].split(",") if len(parts) > 2 else []  # noqa: PLR2004 - the optional third
    if wrong := [option for option in options if option not in _BIND_OPTIONS]:
        raise RefusedError(field, wrong[0], f"use {', '.join(sorted(_BIND_OPTIONS))}")
    return str(value)


def mounts(field: str, value: Any, policy: Policy) -> list[dict[str, Any]]:
    """Check ``HostConfig.Mounts``."""
    if not isinstance(value, list):
        raise RefusedError(field, value, "must be a list")
    return [_mount(f"{field}[{place}]", item, policy) for place, item in enumerate(value)]


def _mount(field: str, value: Any, policy: Policy) -> dict[str, Any]:
    kind = value.get("Type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RefusedError(f"{field}.Type", kind, f"must be one of {', '.join(_KINDS)}")
    found = checked(field, value, _COMMON | _KINDS[kind], policy)
    for name in ("Target",) if kind == "tmpfs" else ("Target", "Source"):
        if name not in found:
            raise RefusedError(f"{field}.{name}", None, "must be given")
    return found


def _options(known: dict[str, Check]) -> Check:
    def check(field: str, value: Any, policy: Policy) -> Any:
        return checked(field, value, known, policy)

    return check


_COMMON: dict[str, Check] = {
    "Type": one_of("volume", "bind", "tmpfs"),
    "Target": _target,
    "ReadOnly": boolean,
    "Consistency": one_of("", "default", "consistent"),
}
_KINDS: dict[str, dict[str, Check]] = {
    "volume": {
        "Source": volume_name,
        "VolumeOptions": _options(
            {"NoCopy": boolean, "Labels": labels, "DriverConfig": never(_DRIVER)}
        ),
    },
    "bind": {
        "Source": host_path,
        "BindOptions": _options(
            {
                "Propagation": one_of("", "private", "rprivate", why="others reach the host"),
                "NonRecursive": boolean,
            }
        ),
    },
    "tmpfs": {
        "Source": never("a tmpfs has none"),
        "TmpfsOptions": _options({"SizeBytes": whole(0), "Mode": whole(0, 0o1777)}),
    },
}


def tmpfs(field: str, value: Any, policy: Policy) -> dict[str, str]:
    """Check ``HostConfig.Tmpfs``: path to mount options, ``suid`` and ``dev`` not among them."""
    if not isinstance(value, dict):
        raise RefusedError(field, value, "must be an object")
    for path, options in value.items():
        _target(f"{field} path", path, policy)
        for option in options.split(",") if isinstance(options, str) and options else []:
            if not _TMPFS_OPTION.fullmatch(option):
                raise RefusedError(f"{field}.{path}", option, "use size, mode, uid, gid, noexec …")
        if not isinstance(options, str):
            raise RefusedError(f"{field}.{path}", options, "must be a text")
    return value
