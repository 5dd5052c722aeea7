"""Whom to trust and who may enter, asked of a real sshd; and whether run folders are shared."""

from __future__ import annotations

import json
import subprocess
import traceback
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from trainyard.errors import ConfigurationError
from trainyard.slurm.errors import HostKeyError, LoginError, NotSentError
from trainyard.slurm.login import fingerprint, login_of
from trainyard.slurm.shared import check_shared
from trainyard.slurm.ssh import SshTransport


@contextmanager
def transport_to(server, **login):
    transport = SshTransport.to(server.login(**login))
    try:
        yield transport
    finally:
        transport.close()


# -- whom to trust, who may enter


def test_an_unknown_host_key_shows_its_fingerprint_and_the_line_to_add(sshd, tmp_path):
    (tmp_path / "known").write_text("")
    unknown = {"host_key": "", "known_hosts": str(tmp_path / "known")}
    with transport_to(sshd, **unknown) as transport, pytest.raises(HostKeyError) as caught:
        transport.run(["true"])
    key = paramiko.Ed25519Key(filename=str(sshd.folder / "host_key"))
    said = str(caught.value)
    assert fingerprint(key) in said
    listed = ["ssh-keygen", "-lf", str(sshd.folder / "host_key.pub")]
    assert fingerprint(key) in subprocess.check_output(listed, text=True)
    line = f"[127.0.0.1]:{sshd.port} {sshd.host_key}"
    assert said.endswith(line)
    (tmp_path / "known").write_text(f"{line}\n")  # what the message says is what helps
    with transport_to(sshd, **unknown) as transport:
        assert transport.run(["echo", "trusted"]).stdout == "trusted\n"


def test_another_host_key_than_the_known_one(sshd):
    wrong = " ".join((sshd.folder / "other_key.pub").read_text().split()[:2])
    with (
        transport_to(sshd, host_key=wrong) as transport,
        pytest.raises(HostKeyError, match="another key than the known one") as caught,
    ):
        transport.run(["true"])
    assert str(caught.value).count("SHA256:") == 2
    assert "Accepted" not in (sshd.folder / "sshd.log").read_text(), "no credentials were sent"


def test_a_host_key_that_is_none(sshd):
    with (
        transport_to(sshd, host_key="ssh-ed25519 nonsense") as transport,
        pytest.raises(ConfigurationError, match="is no host key"),
    ):
        transport.run(["true"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"key_file": "other_key"}, "offered: the key file .*other_key"),
        ({"key_file": "", "password": "hunter2-secret"}, "offered: a password"),
        ({"user": "nobody-of-this-name"}, "nobody-of-this-name@127.0.0.1"),
        ({"key_file": ""}, "offered: nothing"),
        ({"key_file": "absent_key"}, "absent_key does not exist"),
    ],
)
def test_wrong_credentials_name_what_was_offered_and_no_secret(sshd, change, says):
    if change.get("key_file"):
        change = {**change, "key_file": str(sshd.folder / change["key_file"])}
    with transport_to(sshd, **change) as transport:
        with pytest.raises(LoginError, match=says) as caught:
            transport.run(["true"])
        attempts = (sshd.folder / "sshd.log").read_text().count("Connection from")
        with pytest.raises(LoginError, match=says):  # remembered, not tried again
            transport.run(["true"])
    assert (sshd.folder / "sshd.log").read_text().count("Connection from") == attempts
    shown = "".join(traceback.format_exception(caught.value)) + repr(sshd.login(**change))
    assert "hunter2" not in shown


def test_a_host_that_does_not_resolve(sshd):
    with (
        transport_to(sshd, host="no-such-host.invalid") as transport,
        pytest.raises(NotSentError, match="does not resolve"),
    ):
        transport.run(["true"], timeout=0.5)


def hook_of(sshd, monkeypatch, port=0, **extra):
    """Return Airflow's SSHHook for a connection as a user makes it."""
    from airflow.providers.ssh.hooks.ssh import SSHHook

    usual = {
        "private_key": (sshd.folder / "user_key").read_text(),
        "host_key": sshd.host_key,
        "look_for_keys": "false",
    }
    text = json.dumps(
        {"conn_type": "ssh", "host": "127.0.0.1", "port": port or sshd.port, "extra": usual | extra}
    )
    monkeypatch.setenv("AIRFLOW_CONN_LOGIN_NODE", text)
    return SSHHook("login_node")


def test_an_airflow_connection_makes_a_login(sshd, monkeypatch):
    login = login_of(hook_of(sshd, monkeypatch, conn_timeout=7))
    assert (login.timeout_s, login.search_keys) == (7.0, False)
    assert "PRIVATE" not in repr(login)
    transport = SshTransport.to(login)
    assert transport.run(["echo", "in"]).stdout == "in\n"
    transport.close()


def test_all_who_use_one_connection_of_airflow_share_one_to_the_host(sshd, relay, monkeypatch):
    """A thousand triggers in one process must not be a thousand logins."""
    from trainyard.hooks.slurm import access_of_extra

    def access():
        hook_of(sshd, monkeypatch, port=relay.port)
        return access_of_extra("cluster", {"transport": "ssh", "ssh_conn_id": "login_node"})

    first, second = access().transport(), access().transport()
    assert first is second
    for transport in (first, access().client().transport, access().watching_client().transport):
        assert transport.run(["echo", "in"]).stdout == "in\n"
    assert relay.accepted == 1
    first.close()


@pytest.mark.parametrize("name", ["no_host_key_check", "allow_host_key_change"])
def test_a_connection_without_host_key_check_is_refused(sshd, monkeypatch, name):
    hook = hook_of(sshd, monkeypatch, host_key=None, **{name: "true"})
    with pytest.raises(ConfigurationError, match=rf"{name} = true.*host_key"):
        login_of(hook)


# -- the folder of all runs


def test_a_shared_folder_is_recognised(sshd, tmp_path):
    folder = tmp_path / "new" / "runs; it's"
    with transport_to(sshd) as transport:
        check_shared(transport, folder)
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_another_one_there(sshd, tmp_path):
    class Elsewhere:
        def run(self, argv, stdin=None, timeout=30):
            return transport.run([*argv[:-1], f"/elsewhere{argv[-1]}"], stdin, timeout)

    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with (
        transport_to(sshd) as transport,
        pytest.raises(ConfigurationError, match=r"does not appear.*No such file.*shared by"),
    ):
        check_shared(Elsewhere(), tmp_path, clock=lambda: now[0], sleep=sleep)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".shared")] == []


def test_a_folder_that_cannot_be_written_here(sshd):
    with transport_to(sshd) as transport, pytest.raises(ConfigurationError, match="written here"):
        check_shared(transport, Path("/proc/runs"))
