"""``SshTransport``: Slurm's commands on a login node, all through one SSH connection.

A command line goes through the account's login shell, which may print a greeting, set
``SQUEUE_FORMAT`` or be no POSIX shell; so ``/bin/sh`` is started first, clears what would change
Slurm's output, and marks where the command's own output begins.
"""

from __future__ import annotations

import re
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import paramiko

from trainyard.slurm.errors import NotSentError, TransportError
from trainyard.slurm.link import Link
from trainyard.slurm.login import Connect, Login, connect
from trainyard.slurm.transport import NOT_FOUND, OURS_TO_SET, Completed, missing, program

_SLICE_S = 0.2
_PIECE = 65536
_LARGEST = 256 * 2**20
_KILL_S = 5.0
_UNKNOWN = "it may have had its effect"


class SshTransport:
    """Runs commands on a login node. Thread-safe; a forked child makes a connection of its own.

    A command that does not end in time is killed on the login node too, as far as that answers.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        where: str,
        sessions: int = 8,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect with *connect* when first needed.

        *where* names the login node in messages. *sessions* is the most commands at a time: sshd
        allows 10 a connection. *environment*: variables for the commands, such as SLURM_CONF.
        """
        self._link = Link(connect, where=where, sessions=sessions, clock=clock, sleep=sleep)
        self._where = where
        self._environment = dict(environment or {})
        self._clock = clock

    @classmethod
    def to(cls, login: Login, *, environment: Mapping[str, str] | None = None) -> SshTransport:
        """Return a transport to *login*; nothing is connected yet."""
        return cls(lambda: connect(login), where=login.where, environment=environment)

    @classmethod
    def shared(cls, login: Login, *, environment: Mapping[str, str] | None = None) -> SshTransport:
        """Return this process's transport to *login*: all who ask use one connection.

        It is never closed. A login that was changed in any part gets a new one.
        """
        wanted = dict(environment or {})
        for known, variables, transport in _SHARED:
            if known == login and variables == wanted:
                return transport
        made = cls.to(login, environment=wanted)
        _SHARED.append((login, wanted, made))
        return made

    @property
    def connections(self) -> int:
        """Connections made so far: 1 until one was lost."""
        return self._link.connections

    def close(self) -> None:
        """Close the connection; a later command opens it again."""
        self._link.close()

    def run(self, argv: Sequence[str], stdin: str | None = None, timeout: float = 30) -> Completed:
        """Run *argv* on the login node; waiting for a connection counts towards *timeout*.

        Raises ``NotSentError`` when it did not begin, other ``TransportError`` when it may have,
        ``CommandMissingError`` when there is no such program, ``LoginError`` when the login node
        cannot be trusted or refuses the account.
        """
        began = self._clock()
        command = _Command(
            argv=tuple(argv),
            mark=f"trainyard-{secrets.token_hex(8)}",
            deadline=began + timeout,
            timeout=timeout,
            where=self._where,
            clock=self._clock,
        )
        with self._link.session(command.deadline) as channel:
            heard = _Heard()
            try:
                rc = command.exchange(channel, self._environment, stdin, heard)
            except TimeoutError as error:
                self._kill(channel.get_transport(), command.pid(heard))
                raise TransportError(
                    f"{program(argv)} on {self._where} did not end within {timeout:g} s; {_UNKNOWN}"
                ) from error
        done = command.completed(rc, heard, self._clock() - began)
        if done.rc == NOT_FOUND and re.search("not found|No such file", done.stderr):
            raise missing(argv)
        return done

    def _kill(self, transport: paramiko.Transport, pid: int | None) -> None:
        """End a command that is out of time; a connection that cannot even do that is given up."""
        kill = f"kill -KILL -- -{pid} 2>/dev/null || kill -KILL {pid}" if pid else "true"
        try:
            with transport.open_session(timeout=_KILL_S) as channel, _watched(channel, _KILL_S):
                channel.exec_command(f"exec /bin/sh -c {shlex.quote(kill)}")
                if not channel.status_event.wait(_KILL_S):
                    self._link.drop(transport)
        except paramiko.ChannelException:
            return  # no session to spare; the connection itself answers
        except (paramiko.SSHException, EOFError, OSError):
            self._link.drop(transport)


_SHARED: list[tuple[Login, dict[str, str], SshTransport]] = []


@contextmanager
def _watched(channel: paramiko.Channel, seconds: float) -> Iterator[None]:
    """Close *channel* after *seconds*: some waits of paramiko have no end of their own."""
    timer = threading.Timer(max(seconds, 0.0), channel.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Heard:
    """What has come back so far."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()

    def drain(self, channel: paramiko.Channel) -> None:
        """Take what is there without waiting, so that neither stream holds up the other."""
        while channel.recv_ready():
            self.stdout += channel.recv(_PIECE)
        while channel.recv_stderr_ready():
            self.stderr += channel.recv_stderr(_PIECE)
        if len(self.stdout) + len(self.stderr) > _LARGEST:
            raise TransportError(f"a command printed more than {_LARGEST >> 20} MiB; given up")


@dataclass(kw_only=True, slots=True, frozen=True)
class _Command:
    """One command on its way through one session."""

    argv: tuple[str, ...]
    mark: str
    deadline: float
    timeout: float
    where: str
    clock: Callable[[], float]

    def text(self, environment: Mapping[str, str]) -> str:
        """Return the command line for the login shell."""
        prefixes = "|".join(prefix.rstrip("_") for prefix in OURS_TO_SET)
        clear = f"/^SLURM_CONF=/d;s/^(({prefixes})_[A-Za-z0-9_]*)=.*/\\1/p"
        words = [f"{name}={value}" for name, value in environment.items()]
        inner = (
            f"unset -v $(env | sed -nE {shlex.quote(clear)}); "
            f"printf '\\n%s %s\\n' {self.mark} $$; printf '\\n%s\\n' {self.mark} >&2; "
            f"exec {shlex.join([*(['env', *words] if words else []), *self.argv])}"
        )
        return f"exec /bin/sh -c {shlex.quote(inner)}"

    def exchange(
        self,
        channel: paramiko.Channel,
        environment: Mapping[str, str],
        stdin: str | None,
        heard: _Heard,
    ) -> int:
        """Run it; return the exit status. Raises ``TimeoutError`` or ``TransportError``."""
        try:
            with _watched(channel, self._left()):
                channel.exec_command(self.text(environment))
            self._send(channel, stdin, heard)
            self._read(channel, heard)
            if not channel.status_event.wait(self._left()):
                raise TimeoutError
        except (paramiko.SSHException, EOFError, OSError) as error:
            if isinstance(error, TimeoutError) or self.clock() >= self.deadline:
                raise TimeoutError from error
            raise self._broken() from error
        if channel.exit_status < 0:
            raise self._broken()
        return channel.exit_status

    def _left(self) -> float:
        left = self.deadline - self.clock()
        if left <= 0:
            raise TimeoutError
        return left

    def _broken(self) -> TransportError:
        return TransportError(
            f"{program(self.argv)} on {self.where}: the connection broke, or the command was "
            f"killed, before its exit status came; {_UNKNOWN}"
        )

    def _send(self, channel: paramiko.Channel, stdin: str | None, heard: _Heard) -> None:
        data, at = (stdin or "").encode(), 0
        while at < len(data) and not channel.exit_status_ready():  # it may not read everything
            channel.settimeout(min(_SLICE_S, self._left()))
            try:
                at += channel.send(data[at : at + _PIECE])
            except TimeoutError:
                heard.drain(channel)  # it may be waiting for us to read
            except OSError:
                break  # its end is closed: what it says is read below
        channel.shutdown_write()

    def _read(self, channel: paramiko.Channel, heard: _Heard) -> None:
        """Read both streams to their ends, neither waiting for the other."""
        for own, receive in ((heard.stdout, channel.recv), (heard.stderr, channel.recv_stderr)):
            while True:
                channel.settimeout(min(_SLICE_S, self._left()))
                try:
                    piece = receive(_PIECE)
                except TimeoutError:
                    pass
                else:
                    if not piece:
                        break
                    own.extend(piece)
                heard.drain(channel)

    def pid(self, heard: _Heard) -> int | None:
        """Return its process id on the login node, as soon as that is known."""
        found = re.search(rf"\n{self.mark} (\d+)\n".encode(), heard.stdout)
        return int(found[1]) if found else None

    def completed(self, rc: int, heard: _Heard, elapsed: float) -> Completed:
        """Return what came after the marks; a login shell that never got there is an error."""
        found = re.search(rf"\n{self.mark} \d+\n".encode(), heard.stdout)
        if found is None:
            said = bytes(heard.stderr or heard.stdout)[-300:].decode(errors="backslashreplace")
            raise NotSentError(
                f"{self.where}: the login shell ended with {rc} before {program(self.argv)} began: "
                f"{said.strip() or 'it said nothing'}; does the account have a usual shell there?"
            )
        mark = f"\n{self.mark}\n".encode()
        _, marked, stderr = bytes(heard.stderr).partition(mark)
        return Completed(
            rc=rc,
            stdout=bytes(heard.stdout[found.end() :]).decode(errors="backslashreplace"),
            stderr=(stderr if marked else bytes(heard.stderr)).decode(errors="backslashreplace"),
            elapsed=elapsed,
        )
