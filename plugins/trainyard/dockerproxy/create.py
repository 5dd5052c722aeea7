"""Rules for the body of ``POST /containers/create``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from trainyard.dockerproxy.fields import (
    Check,
    boolean,
    checked,
    environment,
    labels,
    never,
    text,
    texts,
    user,
    whole,
)
from trainyard.dockerproxy.hostconfig import host_config, network
from trainyard.dockerproxy.policy import Policy, matches_any
from trainyard.dockerproxy.refusal import RefusedError

MANAGED = "trainyard.managed"
"""Label of every container made through the proxy; others are out of its clients' reach."""
_REFERENCE = re.compile(
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_IMAGE_ID = re.compile(r"(sha256:)?[0-9a-f]{12,64}")
_INSIDE = "is the image's affair, or reaches outside the container"


@dataclass(kw_only=True, slots=True, frozen=True)
class Creation:
    """A body the rules permit, made anew from what was understood of the client's."""

    body: dict[str, Any]
    """What goes to the engine."""
    filled: list[str]
    """Fields the client left out and the policy filled in."""
    image: str
    """The image as the client names it."""
    by_id: bool
    """Whether the image is named by its id, so that its names must be asked of the engine."""

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the container."""
        return dict(self.body["Labels"])


def is_image_id(reference: str) -> bool:
    """Return whether *reference* is an image's id, which says nothing about where it is from."""
    return _IMAGE_ID.fullmatch(reference) is not None


def check_image(field: str, reference: Any, policy: Policy) -> str:
    """Return *reference* if it is the name of an allowed image; without a tag it means latest."""
    if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
        raise RefusedError(field, reference, "must be the name of an image")
    if not is_allowed(reference, policy):
        raise RefusedError(
            field, reference, f"may not be used; allowed images: {', '.join(policy.images)}"
        )
    return reference


def is_allowed(reference: str, policy: Policy) -> bool:
    """Return whether a pattern of the policy is the name *reference*, digest and tag included."""
    tagged = ":" in reference.rpartition("/")[2]
    return matches_any(policy.images, reference if tagged else f"{reference}:latest")


def creation(given: dict[str, Any], policy: Policy) -> Creation:
    """Return what *given* asks for if every field of it is permitted; raise ``RefusedError``.

    The engine also reads fields of ``HostConfig`` beside it, for clients of ten years ago: such
    fields are unknown here, and refused.
    """
    found = checked("", given, _FIELDS, policy)
    image = found.get("Image")
    if not isinstance(image, str) or not image:
        raise RefusedError("Image", image, "must be given")
    by_id = is_image_id(image)
    if not by_id:
        check_image("Image", image, policy)
    host, filled = host_config(given.get("HostConfig"), policy)
    found["HostConfig"] = host
    _check_volumes(found.pop("Volumes", None) or {}, host)
    if not found.get("User"):
        found["User"] = policy.user
        filled.append("User")
    marks = found.setdefault("Labels", {})
    if marks.setdefault(MANAGED, "true") != "true":
        raise RefusedError(f"Labels.{MANAGED}", marks[MANAGED], "must be 'true', or left out")
    return Creation(body=found, filled=filled, image=image, by_id=by_id)


def _check_volumes(wanted: Any, host: dict[str, Any]) -> None:
    """Permit the targets that clients name beside ``Binds``; others would be nameless volumes."""
    targets = {bind.split(":")[1] for bind in host.get("Binds", ())}
    targets |= {mount["Target"] for mount in host.get("Mounts", ())}
    for target in wanted if isinstance(wanted, dict) else [wanted]:
        if target not in targets:
            raise RefusedError("Volumes", target, "mount a named volume there; nameless ones stay")


def _networking(field: str, value: Any, policy: Policy) -> Any:
    return checked(field, value, {"EndpointsConfig": _endpoints}, policy)


def _endpoints(field: str, value: Any, policy: Policy) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(field, value, "must be an object")
    known: dict[str, Check] = {"Aliases": texts, "NetworkID": never("is the engine's to choose")}
    found = {}
    for name, endpoint in value.items():
        network(f"{field} network", name, policy)
        found[name] = checked(f"{field}.{name}", endpoint or {}, known, policy)
    return found


def _health(field: str, value: Any, policy: Policy) -> Any:
    known: dict[str, Check] = {"Test": texts, "Retries": whole(0)}
    known |= dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval"), whole(0))
    return checked(field, value, known, policy)


def _later(field: str, value: Any, policy: Policy) -> Any:
    """Leave a field to the function that looks at it with others."""
    del field, policy
    return value


_FIELDS: dict[str, Check] = {
    **dict.fromkeys(
        ("ExposedPorts", "OnBuild", "MacAddress", "OpenStdin", "StdinOnce",
         "AttachStdin", "Domainname"),
        never(_INSIDE),
    ),
    "Image": _later,
    "Volumes": _later,
    "HostConfig": _later,
    "NetworkingConfig": _networking,
    "Hostname": text,
    "User": user,
    "Labels": labels,
    "Env": environment,
    "Cmd": texts,
    "Entrypoint": texts,
    "Shell": texts,
    "WorkingDir": text,
    "StopSignal": text,
    "StopTimeout": whole(0, 3600),
    "Healthcheck": _health,
    "Tty": boolean,
    "AttachStdout": boolean,
    "AttachStderr": boolean,
    "NetworkDisabled": boolean,
    "ArgsEscaped": boolean,
}  # fmt: skip
