"""Which requests there are: method and path to an operation, and the query that goes with it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from trainyard.dockerproxy.body import strict_json
from trainyard.dockerproxy.create import MANAGED, check_image
from trainyard.dockerproxy.policy import Policy
from trainyard.dockerproxy.refusal import RefusedError

OLDEST = 40
"""Oldest minor API version: before 1.24 the engine reads a HostConfig from the body of start."""
_VERSION = re.compile(r"/v1\.([0-9]{1,3})(?=/)")
_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}"
_PLAIN = re.compile(r"[A-Za-z0-9/_.:@-]+")
_FLAG = re.compile(r"|0|1|true|false|True|False")
_NUMBER = re.compile(r"-?[0-9]{1,10}")
_TIME = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?|[0-9T:.Z+-]{10,40}")
_LINES = re.compile(r"all|[0-9]{1,9}")
_SIGNAL = re.compile(r"[A-Z0-9+-]{1,12}")
_WORD = re.compile(r"[a-z-]{0,20}")
_LABELLED = re.compile(_NAME)
_PLATFORM = re.compile(r"|linux(/[a-z0-9]+){0,2}")
_ANY = re.compile(r"(?s).*")
_OUTPUT = dict.fromkeys(("stdout", "stderr", "logs", "stream"), _FLAG)


@dataclass(kw_only=True, slots=True, frozen=True)
class Operation:
    """One thing a client may do."""

    name: str
    """As the audit log names it."""
    methods: tuple[str, ...]
    """HTTP methods."""
    path: str
    """The path after the version; ``{id}`` is a container, ``{image}`` an image."""
    query: dict[str, re.Pattern[str]] = field(default_factory=dict)
    """Parameters, and the form of their values; others are refused."""

    def pattern(self) -> re.Pattern[str]:
        """Return the path as a regular expression."""
        text = re.escape(self.path).replace(r"\{id\}", f"(?P<id>{_NAME})")
        return re.compile(text.replace(r"\{image\}", "(?P<image>[A-Za-z0-9/_.:@-]+)"))


OPERATIONS = (
    Operation(name="ping", methods=("GET", "HEAD"), path="/_ping"),
    Operation(name="version", methods=("GET",), path="/version"),
    Operation(name="info", methods=("GET",), path="/info"),
    Operation(name="image_list", methods=("GET",), path="/images/json",
              query={"all": _FLAG, "digests": _FLAG, "only_ids": _FLAG, "filters": _ANY}),
    Operation(name="image_inspect", methods=("GET",), path="/images/{image}/json"),
    Operation(name="image_pull", methods=("POST",), path="/images/create",
              query={"fromImage": _PLAIN, "tag": _PLAIN, "platform": _PLATFORM}),
    Operation(name="list", methods=("GET",), path="/containers/json",
              query={"all": _FLAG, "limit": _NUMBER, "size": _FLAG, "trunc_cmd": _FLAG,
                     "filters": _ANY}),
    Operation(name="create", methods=("POST",), path="/containers/create",
              query={"name": _LABELLED, "platform": _PLATFORM}),
    Operation(name="inspect", methods=("GET",), path="/containers/{id}/json",
              query={"size": _FLAG}),
    Operation(name="start", methods=("POST",), path="/containers/{id}/start"),
    Operation(name="wait", methods=("POST",), path="/containers/{id}/wait",
              query={"condition": _WORD}),
    Operation(name="logs", methods=("GET",), path="/containers/{id}/logs",
              query={"stdout": _FLAG, "stderr": _FLAG, "follow": _FLAG, "timestamps": _FLAG,
                     "details": _FLAG, "since": _TIME, "until": _TIME, "tail": _LINES}),
    Operation(name="attach", methods=("POST",), path="/containers/{id}/attach",
              query={**_OUTPUT, "stdin": re.compile("|0|false")}),
    Operation(name="stats", methods=("GET",), path="/containers/{id}/stats",
              query={"stream": _FLAG, "one-shot": _FLAG}),
    Operation(name="top", methods=("GET",), path="/containers/{id}/top",
              query={"ps_args": re.compile(r"[a-zA-Z0-9 ,=_-]{0,100}")}),
    Operation(name="stop", methods=("POST",), path="/containers/{id}/stop",
              query={"t": _NUMBER, "signal": _SIGNAL}),
    Operation(name="kill", methods=("POST",), path="/containers/{id}/kill",
              query={"signal": _SIGNAL}),
    Operation(name="remove", methods=("DELETE",), path="/containers/{id}",
              query={"v": _FLAG, "force": _FLAG, "link": re.compile("|0|false|False")}),
)  # fmt: skip
_PATTERNS = tuple((operation, operation.pattern()) for operation in OPERATIONS)


@dataclass(kw_only=True, slots=True, frozen=True)
class Request:
    """What a client asked for, as far as it was understood."""

    operation: Operation
    """What to do."""
    version: str
    """``/v1.41``, or empty for the engine's own."""
    target: str
    """Container or image the path names; empty for neither."""
    query: dict[str, str]
    """Parameters, checked."""

    def upstream(self, *, target: str = "") -> str:
        """Return path and query for the engine, with *target* in place of the client's name."""
        place = quote(target or self.target, safe="/:@")
        path = self.operation.path.replace("{id}", place).replace("{image}", place)
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{self.version}{path}{query}"


def understand(method: str, raw_path: str, policy: Policy) -> Request:
    """Return the request that *method* and the path *raw_path*, as received, stand for.

    The path is matched as it came, with no decoding: an escape, a doubled slash or a dot segment
    in it fits no operation. Raises ``RefusedError``.
    """
    path, _, query = raw_path.partition("?")
    version = _VERSION.match(path)
    if version and int(version[1]) < OLDEST:
        raise RefusedError("API version", version[0], f"must be v1.{OLDEST} or newer")
    rest = path[version.end() :] if version else path
    for operation, pattern in _PATTERNS:
        found = pattern.fullmatch(rest)
        if found and method in operation.methods and ".." not in rest:
            return Request(
                operation=operation,
                version=version[0] if version else "",
                target="".join(found.groupdict().values()),
                query=_query(operation, query, policy),
            )
    raise RefusedError("request", f"{method} {rest}", f"is none of {_names()}")


def _names() -> str:
    return ", ".join(operation.name for operation in OPERATIONS)


def _query(operation: Operation, text: str, policy: Policy) -> dict[str, str]:
    if ";" in text or not text.isascii():
        raise RefusedError("query", text, "must be name=value, joined by &")
    given: dict[str, str] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    except ValueError as error:
        raise RefusedError("query", text, "must be name=value, joined by &") from error
    for name, value in pairs:
        if name in given:
            raise RefusedError(f"query {name}", value, "is given twice")
        if name not in operation.query:
            allowed = ", ".join(operation.query) or "none"
            raise RefusedError(f"query {name}", value, f"{operation.name} takes {allowed}")
        if not operation.query[name].fullmatch(value):
            raise RefusedError(f"query {name}", value, "has not the form of such a value")
        given[name] = value
    if operation.name == "list":
        given["filters"] = _only_managed(given.get("filters", ""))
    if operation.name == "image_pull":
        _check_pull(given, policy)
    return given


def _only_managed(filters: str) -> str:
    """Return *filters* and the condition that a container is ours."""
    found: dict[str, Any] = strict_json(filters.encode()) if filters else {}
    for name, wanted in found.items():
        if isinstance(wanted, dict):  # the form of older clients: {"label": {"a=b": true}}
            if not all(flag is True for flag in wanted.values()):
                raise RefusedError(f"filters.{name}", wanted, "must be a list of texts")
            found[name] = list(wanted)
        elif not isinstance(wanted, list) or not all(isinstance(item, str) for item in wanted):
            raise RefusedError(f"filters.{name}", wanted, "must be a list of texts")
    found["label"] = [*found.get("label", []), f"{MANAGED}=true"]
    return json.dumps(found)


def _check_pull(query: dict[str, str], policy: Policy) -> None:
    if not policy.pull:
        raise RefusedError("request", "image pull", "pull is false in the proxy's policy")
    name, tag = query.get("fromImage", ""), query.get("tag", "")
    if not tag and ":" not in name.rpartition("/")[2]:
        raise RefusedError("query tag", None, "must be given, or every tag would be pulled")
    joint = "@" if tag.startswith("sha256:") else ":"
    check_image("query fromImage", f"{name}{joint}{tag}" if tag else name, policy)


def refuse_headers(headers: Sequence[tuple[str, str]], body_allowed: bool) -> None:
    """Raise ``RefusedError`` for a body in a form that this proxy and the engine may read apart."""
    names = [name.lower() for name, _ in headers]
    found = {name.lower(): value for name, value in headers}
    for name in ("transfer-encoding", "content-encoding", "expect"):
        if name in found:
            raise RefusedError(
                f"header {name}", found[name], "is not permitted; send a plain body and its length",
                status=HTTPStatus.LENGTH_REQUIRED,
            )  # fmt: skip
    if len(set(names)) != len(names) and names.count("content-length") > 1:
        raise RefusedError("header content-length", None, "is given twice", status=400)
    if not body_allowed and int(found.get("content-length", "0") or "0") > 0:
        raise RefusedError("body", None, "is permitted for create only", status=400)


def decoded(path: str) -> str:
    """Return *path* as a person reads it in the audit log, shortened."""
    return unquote(path)[:300]
