"""What airflow-init makes, on a real Airflow with its FAB auth manager, without containers."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from werkzeug.security import check_password_hash

from tests.fixtures.settings import make_settings
from trainyard.compose import render
from trainyard.compose.keys import ROLES

pytestmark = pytest.mark.slow

PLACE = render.Place(project="test", cores=4, profiles=frozenset({"slurm"}))
WORDS = {f"{name.upper()}_PASSWORD": f"word-{name}" for name in ROLES}


class Installation:
    """An Airflow whose database is migrated and empty, and the files that `make up` renders."""

    said = ""

    def __init__(self, home, folder):
        self.folder = folder
        shutil.copytree(home.folder / "airflow", folder / "airflow")
        make_settings(folder)
        self.home = replace(
            home,
            folder=folder,
            env={
                **home.env,
                "AIRFLOW_HOME": str(folder / "airflow"),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow/airflow.db",
                "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager."
                "fab_auth_manager.FabAuthManager",
                "TRAINYARD_SETTINGS": str(folder / "settings.toml"),
                "TRAINYARD_PROVISION": str(folder),
            },
        )
        # Tests before this one may have used that Airflow.
        self.sql("DELETE FROM slot_pool WHERE pool != 'default_pool'")
        self.sql("DELETE FROM connection")
        self.write("accounts", render.accounts(WORDS))
        self.write("pools", render.pools(PLACE))
        self.write("connections", render.connections(PLACE))

    def write(self, name, wanted):
        (self.folder / f"{name}.json").write_text(json.dumps(wanted))

    def provision(self):
        return self.home.run("-m", "trainyard.hooks.provision", check=False)

    def sql(self, question, *values):
        with closing(sqlite3.connect(self.folder / "airflow" / "airflow.db")) as base, base:
            return base.execute(question, values).fetchall()

    def accounts(self):
        """Name to (role, password's hash)."""
        found = self.sql(
            "SELECT username, ab_role.name, password FROM ab_user "
            "JOIN ab_user_role ON ab_user_role.user_id = ab_user.id "
            "JOIN ab_role ON ab_role.id = ab_user_role.role_id"
        )
        return {name: (role, word) for name, role, word in found}


@pytest.fixture(scope="module")
def installed(airflow_home, tmp_path_factory):
    """An installation after its first start, and what that said."""
    made = Installation(airflow_home, tmp_path_factory.mktemp("provision"))
    done = made.provision()
    assert done.returncode == 0, done.stdout + done.stderr
    made.said = done.stdout
    return made


def test_a_first_start_makes_accounts_pools_connections_and_the_results_database(installed):
    found = installed.accounts()
    assert {name: role for name, (role, _) in found.items()} == ROLES
    for name, (_, hashed) in found.items():
        assert check_password_hash(hashed, f"word-{name}")
        assert f"account {name} made" in installed.said
        assert f"word-{name}" not in installed.said
    pools = dict(installed.sql("SELECT pool, slots FROM slot_pool"))
    for wanted in render.pools(PLACE):
        assert pools[wanted["name"]] == wanted["slots"]
    named = {name for (name,) in installed.sql("SELECT conn_id FROM connection")}
    assert named >= set(render.connections(PLACE))
    with closing(sqlite3.connect(installed.folder / "results.db")) as base:
        assert base.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_a_second_start_sets_passwords_and_roles_and_leaves_what_a_person_changed(installed):
    installed.sql("UPDATE slot_pool SET slots = 9 WHERE pool = 'trainyard_cpu'")
    name = next(iter(render.connections(PLACE)))
    installed.sql("UPDATE connection SET host = 'elsewhere' WHERE conn_id = ?", name)
    installed.sql(
        "UPDATE ab_user_role SET role_id = (SELECT id FROM ab_role WHERE name = 'Admin') "
        "WHERE user_id = (SELECT id FROM ab_user WHERE username = 'viewer')"
    )
    installed.write("accounts", render.accounts({**WORDS, "VIEWER_PASSWORD": "another"}))
    done = installed.provision()
    assert done.returncode == 0, done.stdout + done.stderr
    role, hashed = installed.accounts()["viewer"]
    assert role == "Viewer"
    assert check_password_hash(hashed, "another")
    assert installed.sql("SELECT slots FROM slot_pool WHERE pool = 'trainyard_cpu'") == [(9,)]
    hosts = installed.sql("SELECT host FROM connection WHERE conn_id = ?", name)
    assert hosts == [("elsewhere",)]
    assert "made" not in done.stdout


def test_what_cannot_be_set_is_an_error_that_says_why(installed):
    """A role that does not exist, and an account that the database refuses to change."""
    code = """
import json, os, sys
from pathlib import Path
from trainyard.hooks import provision

provision.databases = lambda: None
wanted = Path(os.environ['TRAINYARD_PROVISION'], 'accounts.json')
for entry in ({'role': 'King'}, {'role': 'Viewer'}):
    wanted.write_text(json.dumps([{'username': 'viewer', 'password': 'third', **entry}]))
    print('exit code', provision.main(), file=sys.stderr)
"""
    installed.sql(
        "CREATE TRIGGER refuse BEFORE UPDATE ON ab_user "
        "BEGIN SELECT RAISE(ABORT, 'the disk is read-only'); END"
    )
    try:
        done = installed.home.run("-c", code)
    finally:
        installed.sql("DROP TRIGGER refuse")
    role, password = done.stderr.split("exit code 1\n")[:2]
    assert "account 'viewer': role = 'King'; choose from Admin, " in role
    assert "account 'viewer': role and password could not be set" in password
    assert not check_password_hash(installed.accounts()["viewer"][1], "third")
