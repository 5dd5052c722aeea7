"""Who logs in where, and which host key is believed: how an SSH connection begins. No Airflow here.

The host key is always checked. An unknown or changed one is an error that shows its fingerprint:
whoever accepts any key hands the cluster account to whoever answers first.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import paramiko

from trainyard.errors import ConfigurationError
from trainyard.slurm.errors import HostKeyError, LoginError, NotSentError

Connect = Callable[[], paramiko.SSHClient]
"""Makes a new, authenticated connection, or raises ``LoginError`` or ``NotSentError``."""
_STANDARD_PORT = 22
_PARAMIKO_LOG = "trainyard.slurm.paramiko"
# It logs a traceback for whatever it raises as well; what it raises is told by our errors.
logging.getLogger(_PARAMIKO_LOG).setLevel(logging.CRITICAL)
_EVERYBODYS_KEYS = Path("/etc/ssh/ssh_known_hosts")


@dataclass(kw_only=True, slots=True, frozen=True)
class Login:
    """An account on a login node. Its representation holds no secret."""

    host: str
    """Name or address."""
    port: int = _STANDARD_PORT
    """TCP port of its sshd."""
    user: str = ""
    """Account; empty: that of this process."""
    password: str = field(default="", repr=False)
    """Password, also tried as the passphrase of the key file."""
    key: paramiko.PKey | None = field(default=None, repr=False)
    """Private key."""
    key_file: str = ""
    """File with a private key."""
    search_keys: bool = True
    """Whether the SSH agent and the keys in ~/.ssh are tried."""
    host_key: str = ""
    """The one host key to believe, as ``ssh-ed25519 AAAA…``; empty: the known_hosts files."""
    known_hosts: str = ""
    """A known_hosts file instead of ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts."""
    proxy_command: str = ""
    """Command whose standard input and output lead to the host, as in ssh_config."""
    timeout_s: float = 10.0
    """Longest wait for each of: TCP, the server's banner, authentication."""
    keepalive_s: int = 30
    """Seconds of silence after which a keep-alive is sent; firewalls drop silent connections."""
    compress: bool = True
    """Compress what is sent: squeue's table shrinks to a fifth."""
    disabled_algorithms: Mapping[str, Sequence[str]] | None = None
    """Algorithms not to offer, as paramiko takes them."""

    @property
    def where(self) -> str:
        """``user@host:port``, for messages."""
        port = "" if self.port == _STANDARD_PORT else f":{self.port}"
        return f"{self.user or getpass.getuser()}@{self.host}{port}"

    @property
    def known_as(self) -> str:
        """The host's name in a known_hosts file."""
        return self.host if self.port == _STANDARD_PORT else f"[{self.host}]:{self.port}"


class SshParameters(Protocol):
    """What is read of Airflow's ``SSHHook``, which has parsed an Airflow SSH connection."""

    remote_host: str
    port: int
    username: str
    password: str | None
    pkey: Any
    key_file: str | None
    look_for_keys: bool
    host_key: Any
    no_host_key_check: bool
    allow_host_key_change: bool
    host_proxy_cmd: str | None
    conn_timeout: int | None
    keepalive_interval: int
    compress: bool
    disabled_algorithms: Any


def login_of(hook: SshParameters) -> Login:
    """Return the login an ``SSHHook`` describes.

    Raises ``ConfigurationError`` when its connection asks for no check of the host key. The hook's
    own ``get_conn`` is not used: it tries wrong credentials three times, and many sites lock an
    address out after three.
    """
    for name in ("no_host_key_check", "allow_host_key_change"):
        if getattr(hook, name):
            raise ConfigurationError(
                f"the SSH connection to {hook.remote_host} has {name} = true: Trainyard submits "
                "only to a host it can tell from another; remove it from the connection's extras "
                'and put the host key there: "host_key": "ssh-ed25519 AAAA…"'
            )
    pinned = hook.host_key
    return Login(
        host=hook.remote_host,
        port=hook.port,
        user=hook.username,
        password=(hook.password or "").strip(),
        key=hook.pkey,
        key_file=hook.key_file or "",
        search_keys=hook.look_for_keys,
        host_key=f"{pinned.get_name()} {pinned.get_base64()}" if pinned is not None else "",
        proxy_command=hook.host_proxy_cmd or "",
        timeout_s=float(hook.conn_timeout or 10),
        keepalive_s=hook.keepalive_interval,
        compress=hook.compress,
        disabled_algorithms=hook.disabled_algorithms,
    )


def connect(login: Login) -> paramiko.SSHClient:
    """Return a new, authenticated connection.

    Raises ``HostKeyError`` and ``LoginError`` where trying again is useless, ``NotSentError``
    where it may help.
    """
    key_file = Path(login.key_file).expanduser() if login.key_file else None
    if key_file is not None and not key_file.is_file():
        raise LoginError(f"{login.where}: the private key file {key_file} does not exist here")
    client = paramiko.SSHClient()
    client.set_log_channel(_PARAMIKO_LOG)
    try:
        _trust(client, login)
        _open(client, login, str(key_file) if key_file else None)
    except BaseException:
        client.close()
        raise
    transport = client.get_transport()
    if transport is not None:
        transport.set_keepalive(login.keepalive_s)
    return client


def _open(client: paramiko.SSHClient, login: Login, key_file: str | None) -> None:
    proxy = paramiko.ProxyCommand(login.proxy_command) if login.proxy_command else None
    try:
        client.connect(
            login.host,
            port=login.port,
            username=login.user or getpass.getuser(),
            password=login.password or None,
            pkey=login.key,
            key_filename=key_file,
            look_for_keys=login.search_keys,
            allow_agent=login.search_keys,
            timeout=login.timeout_s,
            banner_timeout=login.timeout_s,
            auth_timeout=login.timeout_s,
            compress=login.compress,
            sock=proxy,
            disabled_algorithms=login.disabled_algorithms,
        )
    except paramiko.BadHostKeyException as error:
        raise _changed(login, error) from error
    except paramiko.AuthenticationException as error:
        raise _refused(login, error) from error
    except paramiko.SSHException as error:
        if "No authentication methods" in str(error):
            raise _refused(login, error) from error
        raise _unreachable(login, error) from error
    except (OSError, EOFError) as error:
        raise _unreachable(login, error) from error


# -- host keys


class _Refuse(paramiko.MissingHostKeyPolicy):
    """Refuses a host that no known key belongs to, and shows what it showed."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> NoReturn:
        login = self._login
        line = f"{key.get_name()} {key.get_base64()}"
        raise HostKeyError(
            f"{login.where}: unknown host key {key.get_name()} {fingerprint(key)}. Compare it with "
            "the fingerprint the site publishes; when it is the same, add this line to the "
            f"known_hosts file, or the key in it to the connection's extras as host_key: "
            f"{login.known_as} {line}"
        )


def _trust(client: paramiko.SSHClient, login: Login) -> None:
    client.set_missing_host_key_policy(_Refuse(login))
    if login.host_key:
        key = _pinned(login)
        client.get_host_keys().add(login.known_as, key.get_name(), key)
        return
    try:
        client.load_system_host_keys(login.known_hosts or None)
    except OSError as error:
        raise ConfigurationError(
            f"{login.where}: the known_hosts file {login.known_hosts} cannot be read: "
            f"{error.strerror}"
        ) from error
    if not login.known_hosts and _EVERYBODYS_KEYS.is_file():
        client.load_system_host_keys(str(_EVERYBODYS_KEYS))


def _pinned(login: Login) -> paramiko.PKey:
    line = f"{login.known_as} {login.host_key}"
    try:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(line)
    except (paramiko.SSHException, paramiko.hostkeys.InvalidHostKey):
        entry = None
    if entry is None or entry.key is None:
        raise ConfigurationError(
            f"{login.where}: host_key = {login.host_key[:40]!r} is no host key such as "
            "'ssh-ed25519 AAAA…'; copy it from `ssh-keyscan`, after comparing its fingerprint"
        )
    return entry.key


def fingerprint(key: paramiko.PKey) -> str:
    """Return a key's fingerprint as ssh(1) prints it: ``SHA256:…``."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


# -- what went wrong


def _changed(login: Login, error: paramiko.BadHostKeyException) -> HostKeyError:
    return HostKeyError(
        f"{login.where}: the host shows another key than the known one: {error.key.get_name()} "
        f"{fingerprint(error.key)} instead of {fingerprint(error.expected_key)}. Either its key "
        "was changed (ask the site, then replace the old key in known_hosts or the connection's "
        "host_key) or another machine answers in its place. Nothing was sent to it"
    )


def _refused(login: Login, error: Exception) -> LoginError:
    ways = ", ".join(getattr(error, "allowed_types", ()) or ())
    offered = [
        name
        for name, given in (
            ("a password", login.password),
            ("a private key", login.key is not None),
            (f"the key file {login.key_file}", login.key_file),
            ("the agent and keys in ~/.ssh", login.search_keys),
        )
        if given
    ]
    accepts = f"; it accepts {ways}" if ways else ""
    return LoginError(
        f"{login.where}: the login was refused{accepts}; "
        f"offered: {', '.join(offered) or 'nothing'}. "
        "Check user and key of the connection, and that the public key is in the account's "
        "authorized_keys. The next try is made in a minute: sites lock out who tries too often"
    )


def _unreachable(login: Login, error: Exception) -> NotSentError:
    if isinstance(error, socket.gaierror):
        return NotSentError(f"{login.where}: the host name does not resolve; check the connection")
    said = str(getattr(error, "strerror", "") or error or type(error).__name__)
    return NotSentError(
        f"{login.where}: no SSH connection ({said}); is the login node up, and is the port right?"
    )
