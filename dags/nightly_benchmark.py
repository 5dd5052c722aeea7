"""The whole chain, every night: verify, fetch, study, report."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from trainyard.operators import forms, pipeline

with DAG(
    dag_id="nightly_benchmark",
    schedule=forms.nightly(),
    catchup=False,
    max_active_runs=1,
    doc_md="""
Verifies the site, fetches the data set, measures strong and weak scaling and publishes a report,
every night. Only one runs at a time, and a missed night is not made up for: two studies on one
machine would measure each other.
""",
    params={
        **forms.site_form(),
        **forms.tier_form(),
        **forms.dataset_form(),
        **forms.study_form(),
        **forms.work_form(),
    },
    default_args=pipeline.DEFAULTS,
    tags=["trainyard", "training", "study", "nightly"],
    dagrun_timeout=timedelta(hours=24),
):
    fetched = pipeline.fetch()
    pipeline.verify() >> fetched
    pipeline.report(pipeline.runs("scaling", fetched, in_study=True))
