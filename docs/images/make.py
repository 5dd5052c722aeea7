"""Take the pictures of the documentation from a real demo: ``make pictures`` after ``make demo``.

Starts the local stack on the demo's state, looks at it through Chromium, and photographs the
report that the last demo made.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainyard.local.demo import DAG_ID
from trainyard.local.stack import Stack, running_stack
from trainyard.store import open_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE = Path(__file__).resolve().parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def last_study(stack: Stack) -> dict[str, str]:
    with open_store(f"sqlite:///{stack.paths.results_db}") as store:
        studies = store.query("studies_recent", limit=1)
    if not studies:
        sys.exit("no study yet; next step: make demo")
    return studies[0]


def web_ui(stack: Stack, browser: Browser, dag_run_id: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{stack.url}/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(stack.secrets.admin_password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_load_state("networkidle")
    page.goto(f"{stack.url}/dags/{DAG_ID}/runs/{dag_run_id}")
    page.wait_for_load_state("networkidle")
    graph = page.get_by_role("button", name="Graph")
    if graph.count():
        graph.first.click()
    page.wait_for_timeout(4000)
    page.screenshot(path=str(HERE / "dag-graph.png"))
    page.goto(f"{stack.url}/dags/{DAG_ID}")
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    for section in ("Where", "What", "How much"):
        dialog.get_by_role("button", name=section, exact=True).click()
    page.wait_for_timeout(1500)
    dialog.get_by_role("button", name="Where", exact=True).scroll_into_view_if_needed()
    page.screenshot(path=str(HERE / "trigger-form.png"))


def report(browser: Browser, html: Path) -> None:
    page = browser.new_page(viewport={"width": 1100, "height": 1500})
    page.goto(html.as_uri())
    page.screenshot(path=str(HERE / "report.png"))
    page.close()
    for number in (1, 2):
        subprocess.run(
            ["pdftoppm", "-r", "80", "-png", "-singlefile", "-f", str(number), "-l", str(number),
             str(html.with_suffix(".pdf")), str(HERE / f"report-page-{number}")],
            check=True,
        )  # fmt: skip


def main(state: Path) -> None:
    from playwright.sync_api import sync_playwright

    with running_stack(state) as stack, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        study = last_study(stack)
        web_ui(stack, browser, study["dag_run_id"])
        report(browser, Path(study["report_path"]))
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
