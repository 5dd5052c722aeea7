"""Commands on a login node, through a real sshd that is slow, gone, wrong or in between."""

from __future__ import annotations

import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from tests.fixtures.sshd import Relay, running_sshd
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import (
    CommandMissingError,
    ControllerUnreachableError,
    NotSentError,
    SubmissionUnsentError,
    TransportError,
)
from trainyard.slurm.ssh import SshTransport
from trainyard.slurm.transport import LocalTransport

HARD = ["a b", "it's", 'say "x"', "semi;colon", "$HOME `id` $(id)", "line\nbreak", "tab\tä€",
        "back\\slash", "*", "", "-n", "!history", "%s", "a|b&c>d"]  # fmt: skip


@contextmanager
def transport_to(server, port: int = 0, **login):
    transport = SshTransport.to(server.login(port, **login))
    try:
        yield transport
    finally:
        transport.close()


@pytest.fixture
def ssh(sshd, relay):
    with transport_to(sshd, relay.port) as transport:
        yield transport


def alive(mark: str) -> bool:
    """Return whether a process has *mark* in its command line."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if mark in (folder / "cmdline").read_text(errors="replace"):
                    return True
            except OSError:
                continue
    return False


# -- commands arrive as they are


@pytest.mark.parametrize("where", ["local", "ssh"])
def test_arguments_input_and_output_arrive_unchanged(where, request):
    transport = LocalTransport() if where == "local" else request.getfixturevalue("ssh")
    script = "import sys; print(sys.argv[1:]); sys.stdout.write(sys.stdin.read()); sys.exit(7)"
    text = "#!/bin/sh\necho 'ü' \"$X\"\n" * 3
    done = transport.run(["python3", "-c", script, *HARD], stdin=text)
    assert done.stdout == f"{HARD}\n{text}"
    assert (done.rc, done.stderr) == (7, "")


@pytest.mark.parametrize("where", ["local", "ssh"])
def test_both_streams_and_bytes_that_are_no_text(where, request):
    transport = LocalTransport() if where == "local" else request.getfixturevalue("ssh")
    done = transport.run(["sh", "-c", r"printf 'a\377'; printf 'b\376' >&2"])
    assert (done.rc, done.stdout, done.stderr) == (0, "a\\xff", "b\\xfe")


@pytest.mark.parametrize("where", ["local", "ssh"])
def test_a_program_that_is_not_there(where, request):
    transport = LocalTransport() if where == "local" else request.getfixturevalue("ssh")
    with pytest.raises(CommandMissingError, match=r"^sbatch-of-nobody: no such command"):
        transport.run(["sbatch-of-nobody", "--version"])


def test_megabytes_in_both_directions_at_once(ssh):
    """More than a window (2 MiB) each way: whoever only writes or only reads would hang."""
    text = "0123456789abcde\n" * 400_000
    script = "import sys; d = sys.stdin.read(); sys.stderr.write(d); sys.stdout.write(d)"
    done = ssh.run(["python3", "-c", script], stdin=text)
    assert done.stdout == text
    assert done.stderr == text
    echoed = ssh.run(["cat"], stdin=text)
    assert echoed.stdout == text


def test_a_command_that_does_not_read_its_input(ssh):
    done = ssh.run(["sh", "-c", "exec 0<&-; echo refused >&2; exit 3"], stdin="x" * 5_000_000)
    assert (done.rc, done.stderr) == (3, "refused\n")


def test_variables_that_change_slurm_stay_out(sshd):
    """The sshd sets SQUEUE_FORMAT and others, as a site's profile may; SLURM_CONF is ours."""
    transport = SshTransport.to(sshd.login(), environment={"SLURM_CONF": "/etc/our slurm.conf"})
    seen = transport.run(["env"]).stdout
    transport.close()
    assert "wrong" not in seen
    assert "SLURM_CONF=/etc/our slurm.conf\n" in seen


@pytest.mark.parametrize(
    "greeting", ["echo 'Welcome to the cluster'; echo news >&2; ", "printf x;"]
)
def test_a_greeting_of_the_login_shell_is_no_output(tmp_path, greeting):
    shell = f'ForceCommand {greeting} eval "$SSH_ORIGINAL_COMMAND"'
    with running_sshd(tmp_path, shell) as server, transport_to(server) as transport:
        done = transport.run(["sh", "-c", "echo answer; echo complaint >&2"])
    assert (done.stdout, done.stderr) == ("answer\n", "complaint\n")


def test_an_account_without_a_shell_says_so_and_nothing_was_sent(tmp_path):
    forced = "ForceCommand echo This account is currently not available.; exit 1"
    with (
        running_sshd(tmp_path, forced) as server,
        transport_to(server) as transport,
        pytest.raises(NotSentError, match="account is currently not available"),
    ):
        transport.run(["sbatch"])


# -- one connection


@pytest.mark.slow
def test_fifty_commands_at_once_share_one_connection(ssh, sshd, relay):
    def one(number: int) -> str:
        return ssh.run(["sh", "-c", f"sleep 0.1; echo {number}"], timeout=60).stdout

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(one, range(50))) == [f"{n}\n" for n in range(50)]
    assert relay.accepted == 1
    assert ssh.connections == 1
    assert len(sshd.sessions()) == 1


@pytest.mark.slow
def test_an_sshd_that_allows_fewer_sessions(tmp_path):
    """MaxSessions 2: refusals are waited out, nothing fails, no second connection is made."""
    with running_sshd(tmp_path, "MaxSessions 2") as server, transport_to(server) as transport:
        with ThreadPoolExecutor(12) as pool:
            done = list(pool.map(lambda _: transport.run(["sleep", "0.1"], timeout=60), range(12)))
        assert [item.rc for item in done] == [0] * 12
        assert transport.connections == 1


def test_an_sshd_that_allows_no_session(tmp_path):
    with (
        running_sshd(tmp_path, "MaxSessions 0") as server,
        transport_to(server) as transport,
        pytest.raises(NotSentError, match="MaxSessions"),
    ):
        transport.run(["true"], timeout=2)


def test_a_forked_child_makes_a_connection_of_its_own(ssh, relay):
    """A worker forks; two processes on one encrypted stream would destroy it for both."""
    assert ssh.run(["echo", "parent"]).stdout == "parent\n"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if ssh.run(["echo", "child"]).stdout == "child\n" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ssh.run(["echo", "again"]).stdout == "again\n"
    assert (relay.accepted, ssh.connections) == (2, 1)


# -- too slow, gone, back


def test_a_slow_command_is_given_up_and_ended_there(ssh):
    mark = f"31.{time.time_ns() % 10**9}"
    began = time.monotonic()
    with pytest.raises(TransportError, match="did not end within 1 s; it may have had its effect"):
        ssh.run(["sleep", mark], timeout=1)
    assert time.monotonic() - began < 6
    deadline = time.monotonic() + 5
    while alive(mark):
        assert time.monotonic() < deadline, "the command goes on on the login node"
        time.sleep(0.05)
    assert ssh.run(["echo", "next"]).stdout == "next\n"
    assert ssh.connections == 1


def test_connections_killed_while_a_command_runs(ssh, sshd, tmp_path):
    """Unknown is what it is: the command had begun; the next one connects again."""
    begun = tmp_path / "begun"
    threading.Thread(target=lambda: (wait_for(begun), sshd.kill_connections())).start()
    with pytest.raises(TransportError, match="it may have had its effect") as caught:
        ssh.run(["sh", "-c", f"touch {begun}; sleep 20"])
    assert not isinstance(caught.value, NotSentError)
    assert ssh.run(["echo", "back"]).stdout == "back\n"
    assert ssh.connections == 2


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.slow
def test_sshd_away_then_back_within_the_time(sshd, ssh):
    assert ssh.run(["true"]).rc == 0
    sshd.stop()
    threading.Timer(1.5, sshd.start).start()
    assert ssh.run(["echo", "back"], timeout=20).stdout == "back\n"


def test_sshd_away_for_good_and_nothing_was_sent(sshd, ssh):
    sshd.stop()
    began = time.monotonic()
    with pytest.raises(NotSentError, match="no SSH connection"):
        ssh.run(["true"], timeout=2)
    assert time.monotonic() - began < 4
    with pytest.raises(NotSentError):  # at once: it is not this command's turn to try
        ssh.run(["true"], timeout=0.1)


def test_what_is_lost_on_the_way_is_told_to_the_engine(sshd, ssh):
    """sbatch that was never sent needs no search; a query without an answer concludes nothing."""
    sshd.stop()
    client = SlurmClient(ssh, timeout_s=1)
    with pytest.raises(SubmissionUnsentError):
        client.sbatch("#!/bin/sh\n", ["--job-name=x"])
    with pytest.raises(ControllerUnreachableError):
        client.show_config()


def test_a_connection_that_only_looks_alive(ssh, relay):
    """A firewall that drops everything: the time runs out, and the next command connects anew."""
    assert ssh.run(["true"]).rc == 0
    relay.stall()
    with pytest.raises(TransportError):
        ssh.run(["true"], timeout=1)
    relay.cut()
    assert ssh.run(["echo", "new"]).stdout == "new\n"
    assert ssh.connections == 2


def test_a_server_that_accepts_and_never_speaks(sshd):
    silent = Relay(sshd.port)
    silent.stall()
    with transport_to(sshd, silent.port, timeout_s=1.0) as transport, pytest.raises(NotSentError):
        transport.run(["true"], timeout=2)
    silent.close()


def test_pauses_between_attempts_grow(sshd):
    """At most a few attempts in a minute of simulated time, however many commands ask."""
    now, tried = [0.0], []

    def refused() -> paramiko.SSHClient:
        tried.append(now[0])
        raise NotSentError("down")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    transport = SshTransport(refused, where="x", clock=lambda: now[0], sleep=sleep)
    while now[0] < 600:
        with pytest.raises(NotSentError, match="down"):
            transport.run(["true"], timeout=30)
        now[0] += 1.0
    gaps = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert gaps[0] < 1.3
    assert max(gaps) <= 74
    assert gaps[-1] > 40
    assert len(tried) < 25
