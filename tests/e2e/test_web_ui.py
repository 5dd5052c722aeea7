"""The web UI as a person uses it: in a real browser."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_the_trigger_form_shows_sections_choices_and_units(page, stack):
    page.goto(f"{stack.url}/dags/nightly_benchmark")
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    fields = {
        "Where": ("Site",),
        "What": ("Data set", "Network"),
        "How much": ("Preset", "Repeats"),
        "Training": ("Precision", "Learning rate"),
    }
    for section, labels in fields.items():
        dialog.get_by_role("button", name=section, exact=True).click()
        for label in labels:
            dialog.get_by_text(label, exact=False).first.wait_for(timeout=5000)


def test_a_check_of_the_machine_is_triggered_from_the_browser(page, stack):
    before = stack.api.call("GET", "/api/v2/dags/verify_environment/dagRuns")["total_entries"]
    page.goto(f"{stack.url}/dags/verify_environment")
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    dialog.get_by_role("button", name="Trigger").click()

    def done() -> bool:
        runs = stack.api.call(
            "GET", "/api/v2/dags/verify_environment/dagRuns", params={"order_by": "-run_after"}
        )
        newest = runs["dag_runs"][0] if runs["dag_runs"] else {"state": ""}
        return runs["total_entries"] > before and newest["state"] in {"success", "failed"}

    stack.services.wait_until(done, "verify_environment from the browser", 120)
    runs = stack.api.call("GET", "/api/v2/dags/verify_environment/dagRuns",
                          params={"order_by": "-run_after"})  # fmt: skip
    assert runs["dag_runs"][0]["state"] == "success"
