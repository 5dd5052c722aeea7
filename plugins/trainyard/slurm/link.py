"""One SSH connection that is kept up and shared by everybody in this process."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import paramiko

from trainyard.slurm.errors import LoginError, NotSentError, SlurmError
from trainyard.slurm.login import Connect

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_AFTER_REFUSAL_S = 60.0
_OPEN_S = 10.0
_SESSION_PAUSE_S = 0.05
_LONGEST_SESSION_PAUSE_S = 1.0


class Link:
    """Connects when first needed and again after a loss, with growing pauses. Thread-safe.

    Everything runs as sessions of the one connection. sshd allows ten at a time (MaxSessions);
    more wait here. A server that allows fewer is noticed by its refusals.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        where: str,
        sessions: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """*where* names the login node in messages; *clock* and *sleep* are for tests."""
        self._connect = connect
        self._where = where
        self._clock = clock
        self._sleep = sleep
        self._sessions = sessions
        self.connections = 0
        """Connections made so far."""
        self._abandoned: list[paramiko.SSHClient] = []
        self._forget()
        _LINKS.add(self)

    def _forget(self) -> None:
        """Begin without a connection; in the child of a fork, too: the socket is the parent's."""
        client = getattr(self, "_client", None)
        if client is not None:
            # Kept, not freed: freeing would send goodbyes through the parent's connection.
            self._abandoned.append(client)
        self._client: paramiko.SSHClient | None = None
        self._lock = threading.Lock()
        self._free = threading.Condition()
        self._busy = 0
        self._limit = self._sessions
        self._failures = 0
        self._retry_at = 0.0
        self._error: SlurmError | None = None

    # -- sessions

    @contextmanager
    def session(self, deadline: float) -> Iterator[paramiko.Channel]:
        """Give a new session; raises ``NotSentError`` or ``LoginError`` before anything is sent."""
        self._enter(deadline)
        try:
            channel = self._open(deadline)
            try:
                yield channel
            finally:
                with contextlib.suppress(OSError, EOFError):  # the connection may be gone
                    channel.close()
        finally:
            with self._free:
                self._busy -= 1
                self._free.notify()

    def _enter(self, deadline: float) -> None:
        with self._free:
            while self._busy >= self._limit:
                left = deadline - self._clock()
                if left <= 0 or not self._free.wait(left):
                    raise NotSentError(
                        f"{self._where}: {self._busy} commands are under way, as many as the login "
                        "node allows, and none ended in time; this one was not sent"
                    )
            self._busy += 1

    def _open(self, deadline: float) -> paramiko.Channel:
        pause = _SESSION_PAUSE_S
        while True:
            transport = self._transport(deadline)
            left = max(0.1, min(_OPEN_S, deadline - self._clock()))
            try:
                return transport.open_session(timeout=left)
            except (paramiko.SSHException, EOFError, OSError) as error:
                said = str(error) or "it was closed"
                if _refused(transport, error):
                    self._shrink()
                    said = f"{said}; does the account have a shell, is MaxSessions above 0?"
                else:
                    self.drop(transport)
                if self._clock() + pause >= deadline:
                    raise NotSentError(f"{self._where}: sshd opens no session: {said}") from error
            self._sleep(pause)
            pause = min(2 * pause, _LONGEST_SESSION_PAUSE_S)

    def _shrink(self) -> None:
        """Allow only as many sessions as are open beside the one just refused."""
        with self._free:
            self._limit = max(1, min(self._limit, self._busy - 1))

    # -- the connection

    def _transport(self, deadline: float) -> paramiko.Transport:
        if not self._lock.acquire(timeout=max(0.0, deadline - self._clock())):
            raise NotSentError(f"{self._where}: still connecting; the command was not sent")
        try:
            live = self._live()
            return live if live is not None else self._dial(deadline)
        finally:
            self._lock.release()

    def _live(self) -> paramiko.Transport | None:
        transport = self._client.get_transport() if self._client is not None else None
        return transport if transport is not None and transport.is_active() else None

    def _dial(self, deadline: float) -> paramiko.Transport:
        if self._client is not None:
            self._client.close()
            self._client = None
        while True:
            self._await_turn(deadline)
            try:
                self._client = self._connect()
            except LoginError as error:
                self._failed(error, _AFTER_REFUSAL_S)
                raise
            except NotSentError as error:
                pause = min(_FIRST_PAUSE_S * 2.0**self._failures, _LONGEST_PAUSE_S)
                self._failed(error, pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
                continue
            self.connections += 1
            self._failures, self._error = 0, None
            with self._free:
                self._limit = self._sessions
                self._free.notify_all()
            live = self._live()
            if live is not None:
                return live

    def _await_turn(self, deadline: float) -> None:
        """Wait out the pause after the last failure, or raise that failure again."""
        wait = self._retry_at - self._clock()
        if self._error is None or wait <= 0:
            return
        if isinstance(self._error, LoginError) or self._clock() + wait >= deadline:
            raise type(self._error)(str(self._error)) from self._error
        self._sleep(wait)

    def _failed(self, error: SlurmError, pause: float) -> None:
        self._failures += 1
        self._error = error
        self._retry_at = self._clock() + pause

    def drop(self, transport: paramiko.Transport) -> None:
        """Give up a connection that does not answer; the next session makes a new one."""
        transport.close()

    def close(self) -> None:
        """Close the connection; a later session opens it again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


def _refused(transport: paramiko.Transport, error: Exception) -> bool:
    """Return whether sshd answered no, as opposed to a connection that is gone or silent.

    Of several refusals at the same moment paramiko tells one as ``ChannelException`` and the
    others as "Unable to open channel."
    """
    silent = "Timeout" in str(error) or not isinstance(error, paramiko.SSHException)
    return transport.is_active() and not silent


_LINKS: weakref.WeakSet[Link] = weakref.WeakSet()


def _after_fork() -> None:
    for link in list(_LINKS):
        link._forget()


os.register_at_fork(after_in_child=_after_fork)
