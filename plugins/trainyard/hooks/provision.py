"""Makes what an empty installation lacks, before its services start: ``airflow-init`` runs it.

Databases are brought up to date, the accounts of ``accounts.json`` get their role and password,
missing pools and connections are made. Safe to repeat; what a person changed in Airflow (slots of a
pool, fields of a connection, further users) stays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from trainyard.errors import ConfigurationError, TrainyardError


def databases() -> None:
    """Bring Airflow's metadata and the results database up to their schemas."""
    from trainyard.settings import load_settings
    from trainyard.store import migrate, open_store

    with open_store(load_settings().results_url) as store:
        migrate(store)
    # In a process of its own: Airflow configures its loggers and engines at import.
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True)


def accounts(wanted: list[dict[str, str]]) -> list[str]:
    """Make each account or give it its role and password; return what was done, a line each.

    *wanted*: ``username``, ``password`` and ``role``, a role of Airflow's FAB auth manager. Raises
    ``ConfigurationError`` for a role that does not exist.
    """
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    done = []
    with get_application_builder() as builder:
        manager = builder.sm
        manager.sync_roles()
        for entry in wanted:
            name, role = entry["username"], manager.find_role(entry["role"])
            if role is None:
                choices = ", ".join(sorted(known.name for known in manager.get_all_roles()))
                raise ConfigurationError(
                    f"account {name!r}: role = {entry['role']!r}; choose from {choices}"
                )
            done.append(_account(manager, entry, role))
    return done


def _account(manager: Any, entry: dict[str, str], role: Any) -> str:
    name = entry["username"]
    user = manager.find_user(username=name)
    if user is None:
        mail = f"{name}@trainyard.invalid"
        made = manager.add_user(name, name.capitalize(), "Trainyard", mail, role, entry["password"])
        if not made:
            raise ConfigurationError(f"account {name!r} could not be made; see the lines above")
        return f"account {name} made, role {role.name}"
    user.roles = [role]
    # FAB logs what goes wrong and returns False: an old password must not pass for the new one.
    if not (manager.update_user(user) and manager.reset_password(user.id, entry["password"])):
        raise ConfigurationError(
            f"account {name!r}: role and password could not be set; see the lines above"
        )
    return f"account {name}: role {role.name} and password as configured"


def pools(wanted: list[dict[str, Any]]) -> list[str]:
    """Make missing pools; return what was made. *wanted*: ``name``, ``slots``, ``description``."""
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    done = []
    with create_session() as session:
        for pool in wanted:
            if Pool.get_pool(pool["name"], session=session) is None:
                Pool.create_or_update_pool(
                    pool["name"], pool["slots"], pool["description"], True, session=session
                )
                done.append(f"pool {pool['name']} made, {pool['slots']} slots")
    return done


def connections(wanted: dict[str, dict[str, Any]]) -> list[str]:
    """Make missing connections; return what was made. *wanted*: fields by connection id."""
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    done = []
    with create_session() as session:
        for name, fields in wanted.items():
            if session.query(Connection).filter_by(conn_id=name).first() is None:
                extra = json.dumps(fields.get("extra", {}))
                session.add(Connection(conn_id=name, **{**fields, "extra": extra}))
                done.append(f"connection {name} made")
    return done


def main() -> int:
    """Make everything from the files in ``TRAINYARD_PROVISION``; return the exit code."""
    folder = Path(os.environ.get("TRAINYARD_PROVISION", "/run/secrets"))

    def read(name: str) -> Any:
        try:
            return json.loads((folder / name).read_text())
        except ValueError as error:
            raise ConfigurationError(
                f"{folder / name} is no JSON ({error}); `make up` writes it anew"
            ) from error

    try:
        databases()
        done = accounts(read("accounts.json"))
        done += pools(read("pools.json")) + connections(read("connections.json"))
    except (TrainyardError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print("\n".join(done))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
