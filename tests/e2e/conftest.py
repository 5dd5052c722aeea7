"""One real stack for all end-to-end tests: object store, MLflow, Airflow, real training runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.requirements import need


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    from trainyard.local.stack import running_stack
    from trainyard.local.state import REPOSITORY

    trainer = REPOSITORY / ".trainyard" / "envs" / "trainer" / "bin" / "python"
    need(trainer.exists(), f"the trainer's environment is missing ({trainer}): make setup-test")
    # One bundle more than a user has: DAGs that do what a test must see done.
    local = "airflow.dag_processing.bundles.local.LocalDagBundle"
    bundles = [
        {"name": "dags-folder", "classpath": local, "kwargs": {}},
        {
            "name": "tests",
            "classpath": local,
            "kwargs": {"path": str(Path(__file__).parent / "dags")},
        },
    ]
    extra = {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles)}
    with running_stack(tmp_path_factory.mktemp("stack"), extra=extra) as running:
        yield running


@pytest.fixture(scope="session")
def study(stack):
    """The outcome of one nightly benchmark with the demo preset on that stack."""
    from trainyard.local.demo import run_study

    return run_study(stack, {"site": "local", "dataset": "digits", "preset": "demo"})


# Not for the session: Playwright keeps an event loop running in this thread while it is open, and
# no other test could run one.
@pytest.fixture(scope="module")
def browser():
    chromium = Path("/usr/bin/chromium")
    need(chromium.exists(), "Chromium is missing (/usr/bin/chromium): apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=str(chromium),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update",
                  "--disable-sync"],
        )  # fmt: skip
        yield running
        running.close()


@pytest.fixture
def page(browser, stack):
    """A browser page with the Airflow web UI, logged in as admin."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    opened.goto(f"{stack.url}/")
    opened.get_by_label("Username").fill("admin")
    opened.get_by_label("Password").fill(stack.secrets.admin_password)
    opened.get_by_role("button", name="Sign in").click()
    opened.wait_for_url(f"{stack.url}/**", wait_until="networkidle")
    yield opened
    context.close()
