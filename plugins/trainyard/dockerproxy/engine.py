"""Asking the engine: what a container or an image is, and passing an answer on as it comes."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from trainyard.dockerproxy.create import MANAGED, is_allowed
from trainyard.dockerproxy.policy import Policy
from trainyard.dockerproxy.refusal import RefusedError

ASK_TIMEOUT_S = 30.0
"""Most that the engine may take for an answer of its own state; runs are waited for without end."""
_SECRETS_OF_INFO = ("HttpProxy", "HttpsProxy", "NoProxy", "RegistryConfig", "Swarm", "Labels")


class EngineSilentError(Exception):
    """The engine's socket does not answer."""


class Engine:
    """The engine behind the proxy."""

    def __init__(self, policy: Policy) -> None:
        """Connect at the first request."""
        self._policy = policy
        self.session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=policy.socket, limit=0),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=ASK_TIMEOUT_S),
            skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close every connection to the engine."""
        await self.session.close()

    def url(self, path: str) -> URL:
        """Return *path* of the engine; nothing in it is encoded or decoded again."""
        return URL(f"http://docker{path}", encoded=True)

    async def ask(self, path: str) -> tuple[int, Any]:
        """Return status and decoded answer of a ``GET``."""
        try:
            timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
            async with self.session.get(self.url(path), timeout=timeout) as answer:
                return answer.status, json.loads(await answer.read() or b"null")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise EngineSilentError(
                f"docker proxy: the engine at {self._policy.socket} does not answer "
                f"({type(error).__name__}); check that it runs and that the proxy's user is in "
                "the group of its socket"
            ) from error

    async def managed(self, version: str, name: str) -> tuple[str, dict[str, str]]:
        """Return full id and labels of a container that carries our label.

        The id is what the request then goes to: a name could meanwhile be another container's.
        Raises ``RefusedError``, with 404 where there is no such container.
        """
        status, found = await self.ask(f"{version}/containers/{name}/json")
        if status != HTTPStatus.OK:
            # In the engine's words: clients read "No such container" from the message.
            message = str((found or {}).get("message", f"No such container: {name}"))
            raise MissingError(message, status)
        labels = (found.get("Config") or {}).get("Labels") or {}
        if labels.get(MANAGED) != "true":
            raise RefusedError(
                "container", name, f"lacks the label {MANAGED}=true, so it is none of Trainyard's"
            )
        return str(found["Id"]), labels

    async def image_id(self, version: str, reference: str) -> str:
        """Return the full id of the image with the id *reference* if a name of it is allowed."""
        status, found = await self.ask(f"{version}/images/{reference}/json")
        if status != HTTPStatus.OK:
            raise MissingError(f"No such image: {reference}", status)
        names = [*(found.get("RepoTags") or []), *(found.get("RepoDigests") or [])]
        if not any(is_allowed(name, self._policy) for name in names):
            raise RefusedError(
                "Image", reference,
                f"has no allowed name; allowed images: {', '.join(self._policy.images)}",
            )  # fmt: skip
        return str(found["Id"])

    async def images(self, path: str) -> tuple[int, Any]:
        """Return the images at *path* that have an allowed name."""
        status, found = await self.ask(path)
        if status != HTTPStatus.OK or not isinstance(found, list):
            return status, found
        return status, [image for image in found if self._has_allowed_name(image)]

    def _has_allowed_name(self, image: dict[str, Any]) -> bool:
        names = [*(image.get("RepoTags") or []), *(image.get("RepoDigests") or [])]
        return any(is_allowed(name, self._policy) for name in names)

    async def info(self, path: str) -> tuple[int, Any]:
        """Return what the engine says about itself, without what may hold passwords."""
        status, found = await self.ask(path)
        if isinstance(found, dict):
            found = {key: value for key, value in found.items() if key not in _SECRETS_OF_INFO}
        return status, found


class MissingError(Exception):
    """The engine knows no such container or image."""

    def __init__(self, message: str, status: int) -> None:
        """Keep the engine's *message* and *status*."""
        super().__init__(message)
        self.status = status
