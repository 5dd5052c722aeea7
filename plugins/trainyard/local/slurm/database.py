"""The MariaDB behind slurmdbd: its own files, port, socket and password in the state folder."""

from __future__ import annotations

import secrets
import shutil
import subprocess

from trainyard.errors import UnavailableError
from trainyard.local.slurm.config import ClusterConfig, Ports
from trainyard.local.slurm.daemons import Daemons, executable, wait_until


class Database:
    """A private MariaDB server."""

    def __init__(self, config: ClusterConfig, ports: Ports, daemons: Daemons) -> None:
        """Describe the server; ``start`` runs it."""
        self._config = config
        self._ports = ports
        self._daemons = daemons
        self._socket = config.state / "run" / "db.sock"

    def password(self) -> str:
        """Return slurmdbd's password, made once per state folder, readable by the owner alone."""
        file = self._config.state / "db.password"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(24))
        return file.read_text()

    def start(self) -> None:
        """Create the data files when missing, start the server, wait until it answers."""
        if not (self._config.database / "mysql").is_dir():
            self._install()
        argv = ["mariadbd", *self._common(), f"--port={self._ports.database}"]
        # Throw-away data: no double write, no waiting for the disk. slurmdbd asks for a large log.
        argv += ["--bind-address=127.0.0.1", f"--socket={self._socket}", "--skip-log-bin"]
        argv += ["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"]
        argv += ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"]
        argv += [f"--pid-file={self._config.state}/run/mariadbd.db-pid", "--skip-name-resolve"]
        self._daemons.start("mariadbd", argv, {})
        logs = self._config.state / "log"
        wait_until(self._answers, "MariaDB answers", 60, logs)
        self._sql(
            "CREATE DATABASE IF NOT EXISTS slurm_acct;"
            f"CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{self.password()}';"
            "GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';"
        )

    def _common(self) -> list[str]:
        return [
            "--no-defaults",
            f"--datadir={self._config.database}",
            f"--user={self._config.user}",
        ]

    def _install(self) -> None:
        partial = self._config.database.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        argv = [executable("mariadb-install-db"), "--no-defaults", f"--datadir={partial}"]
        argv += [f"--user={self._config.user}", "--skip-test-db", "--skip-name-resolve"]
        argv += [f"--auth-root-socket-user={self._config.user}"]
        argv += ["--auth-root-authentication-method=socket"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UnavailableError(f"mariadb-install-db failed:\n{done.stdout}{done.stderr}")
        partial.replace(self._config.database)

    def _answers(self) -> bool:
        if not self._daemons.running("mariadbd"):
            raise UnavailableError(f"MariaDB ended; see {self._config.state}/log/mariadbd.out")
        return self._client("SELECT 1").returncode == 0

    def _sql(self, text: str) -> None:
        done = self._client(text)
        if done.returncode != 0:
            raise UnavailableError(f"MariaDB refused its set-up: {done.stderr}")

    def _client(self, text: str) -> subprocess.CompletedProcess[str]:
        argv = [executable("mariadb"), "--no-defaults", f"--socket={self._socket}"]
        argv += [f"--user={self._config.user}"]
        return subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
