"""One training run with the parameters of the form."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from trainyard.operators import forms, pipeline

with DAG(
    dag_id="train",
    schedule=None,
    doc_md="""
Trains one configuration once and records it: results database, MLflow, object store. It belongs to
no study and makes no report; use it to try a configuration before a study measures it.
""",
    params={
        **forms.site_form(),
        **forms.tier_form(),
        **forms.dataset_form(),
        **forms.work_form(),
        **forms.single_run_form(),
    },
    default_args=pipeline.DEFAULTS,
    tags=["trainyard", "training"],
    dagrun_timeout=timedelta(hours=12),
):
    pipeline.runs("single", pipeline.fetch(), in_study=False)
