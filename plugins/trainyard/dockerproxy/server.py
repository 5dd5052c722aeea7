"""The proxy as a web application: understand, decide, make a new request, pass the answer on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp import web

from trainyard.dockerproxy.audit import Audit, Entry
from trainyard.dockerproxy.body import LIMIT_BYTES, strict_json
from trainyard.dockerproxy.create import check_image, creation, is_image_id
from trainyard.dockerproxy.engine import Engine, EngineSilentError, MissingError
from trainyard.dockerproxy.policy import Policy
from trainyard.dockerproxy.refusal import RefusedError
from trainyard.dockerproxy.routes import Request, decoded, refuse_headers, understand

_KEPT = ("Content-Type", "Content-Length", "Api-Version", "Ostype", "Docker-Experimental", "Server")
_REGISTRY = "X-Registry-Auth"
_Handler = Callable[[web.Request, Request, Entry], Awaitable[web.StreamResponse]]


class _Hijacked(web.StreamResponse):
    """Bare bytes after the headers, as attach answers; chunk marks would be taken for output."""

    _length_check = False  # what aiohttp's own WebSocketResponse does


class Proxy:
    """Serves one policy and one engine."""

    def __init__(self, policy: Policy, audit: Audit | None = None) -> None:
        """Use *policy* and write to *audit*, standard output by default."""
        self.policy = policy
        self.audit = audit or Audit()
        self._engine: Engine | None = None

    def application(self) -> web.Application:
        """Return the application; serve it with ``handler_cancellation=True``."""
        made = web.Application(client_max_size=LIMIT_BYTES)
        made.router.add_get("/metrics", self._metrics)
        made.router.add_route("*", "/{path:.*}", self.handle)
        made.cleanup_ctx.append(self._running)
        return made

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        self._engine = Engine(self.policy)
        yield
        await self._engine.close()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self.audit.metrics())

    @property
    def engine(self) -> Engine:
        """The engine, while the application runs."""
        if self._engine is None:
            raise AssertionError("the application does not run")
        return self._engine

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request and write one line about it, also when the client goes away."""
        began = time.monotonic()
        entry = Entry(
            client=request.remote or "", method=request.method, path=decoded(request.raw_path)
        )
        status = 0
        try:
            answer = await self._answer(request, entry)
            status = answer.status
        except asyncio.CancelledError:
            entry.details["ended_by"] = "client"
            raise
        except Exception as error:
            entry.decision = "failed"
            entry.details["error"] = type(error).__name__
            raise
        else:
            return answer
        finally:
            self.audit.write(entry, status, time.monotonic() - began)

    async def _answer(self, request: web.Request, entry: Entry) -> web.StreamResponse:
        try:
            asked = understand(request.method, request.raw_path, self.policy)
            entry.operation = asked.operation.name
            refuse_headers(list(request.headers.items()), entry.operation == "create")
            if entry.operation in _OWN:
                own: _Handler = getattr(self, _OWN[entry.operation])
                return await own(request, asked, entry)
            target = ""
            if "{id}" in asked.operation.path:
                target, labels = await self.engine.managed(asked.version, asked.target)
                entry.details |= _identity(target, labels)
            return await self._forward(request, asked, entry, target=target)
        except RefusedError as error:
            entry.refuse(field=error.field, value=error.value, rule=error.rule)
            return _message(str(error), error.status)
        except web.HTTPRequestEntityTooLarge:
            entry.refuse(field="body", value="", rule=f"exceeds {LIMIT_BYTES} bytes")
            return _message(
                f"docker proxy refuses body: exceeds {LIMIT_BYTES} bytes",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        except MissingError as error:
            entry.decision = "failed"
            return _message(str(error), error.status)
        except EngineSilentError as error:
            entry.decision = "failed"
            return _message(str(error), HTTPStatus.BAD_GATEWAY)

    async def _create(
        self, request: web.Request, asked: Request, entry: Entry
    ) -> web.StreamResponse:
        if request.content_type != "application/json":
            raise RefusedError("header content-type", request.content_type, "must be JSON's")
        made = creation(strict_json(await request.read()), self.policy)
        if made.by_id:
            made.body["Image"] = await self.engine.image_id(asked.version, made.image)
        entry.details |= {"image": made.image, "name": asked.query.get("name", "")}
        entry.details |= {"filled": made.filled} | _identity("", made.labels)
        return await self._forward(request, asked, entry, body=made.body)

    async def _image(
        self, request: web.Request, asked: Request, entry: Entry
    ) -> web.StreamResponse:
        name = asked.target
        entry.details["image"] = name
        if is_image_id(name):
            name = await self.engine.image_id(asked.version, name)
        else:
            check_image("image", name, self.policy)
        return await self._forward(request, asked, entry, target=name)

    async def _image_list(self, _: web.Request, asked: Request, __: Entry) -> web.StreamResponse:
        status, found = await self.engine.images(asked.upstream())
        return web.json_response(found, status=status)

    async def _info(self, _: web.Request, asked: Request, __: Entry) -> web.StreamResponse:
        status, found = await self.engine.info(asked.upstream())
        return web.json_response(found, status=status)

    async def _pull(self, request: web.Request, asked: Request, entry: Entry) -> web.StreamResponse:
        entry.details["image"] = asked.query.get("fromImage", "")
        headers = {_REGISTRY: request.headers[_REGISTRY]} if _REGISTRY in request.headers else {}
        return await self._forward(request, asked, entry, headers=headers)

    async def _attach(
        self, request: web.Request, asked: Request, entry: Entry
    ) -> web.StreamResponse:
        """Let a client listen. The engine gets no upgrade: what the client sends goes nowhere."""
        target, labels = await self.engine.managed(asked.version, asked.target)
        entry.details |= _identity(target, labels)
        upgraded = request.headers.get("Upgrade", "").lower() == "tcp"
        out = _Hijacked(status=101 if upgraded else 200)
        out.headers["Content-Type"] = "application/vnd.docker.raw-stream"
        out.headers["Connection"] = "Upgrade" if upgraded else "close"
        if upgraded:
            out.headers["Upgrade"] = "tcp"
        out.force_close()
        return await self._forward(request, asked, entry, target=target, out=out)

    async def _forward(
        self,
        request: web.Request,
        asked: Request,
        entry: Entry,
        *,
        target: str = "",
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        out: web.StreamResponse | None = None,
    ) -> web.StreamResponse:
        """Send the engine a request made anew and pass its answer on piece by piece.

        When the client goes away, aiohttp cancels this and with it the request to the engine.
        """
        url = self.engine.url(asked.upstream(target=target))
        sent = {**(headers or {})} | ({"Content-Type": "application/json"} if body else {})
        data = json.dumps(body).encode() if body else None
        try:
            async with self.engine.session.request(
                request.method, url, data=data, headers=sent
            ) as answer:
                if out is None or answer.status != HTTPStatus.OK:
                    kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
                    out = web.StreamResponse(status=answer.status, headers=kept)
                entry.details |= {"engine_status": answer.status}
                await out.prepare(request)
                async for piece in answer.content.iter_any():
                    await out.write(piece)
                await out.write_eof()
                return out
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if out is not None and out.prepared:
                # The answer has begun: an end without its mark is how the client sees the break.
                entry.decision = "failed"
                if request.transport is not None:
                    request.transport.abort()
                return out
            raise EngineSilentError(
                f"docker proxy: the engine at {self.policy.socket} does not answer "
                f"({type(error).__name__})"
            ) from error


_OWN = {
    "create": "_create",
    "attach": "_attach",
    "image_inspect": "_image",
    "image_list": "_image_list",
    "image_pull": "_pull",
    "info": "_info",
}


def _identity(container: str, labels: Mapping[str, str]) -> dict[str, str]:
    found = {"container": container[:12]} if container else {}
    for name in ("run_id", "rank", "spec_id"):
        if value := labels.get(f"trainyard.{name}"):
            found[name] = value[:200]
    return found


def _message(text: str, status: int) -> web.Response:
    return web.json_response({"message": text}, status=status)
