"""The one file Airflow's plugin loader executes; the package beside it is hidden from the loader.

The loader runs every Python file below the plugins folder as a top-level module named after its
file, so `trainyard/operators/launch.py` would replace any module called `launch`. For that reason
plugins/.airflowignore names the package; it can be imported all the same, since Airflow puts this
folder on sys.path.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from trainyard.hooks import audit, pools, telling
from trainyard.operators.links import MLflowRunLink, ReportLink, RunFolderLink


class TrainyardPlugin(AirflowPlugin):
    """What Trainyard adds to Airflow beside its operators."""

    name = "trainyard"
    operator_extra_links = [MLflowRunLink(), ReportLink(), RunFolderLink()]  # noqa: RUF012 - Airflow's
    listeners = [pools, audit, telling]  # noqa: RUF012 - Airflow's
