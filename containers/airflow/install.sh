#!/bin/sh
# Makes /opt/airflow, the environment of Airflow and Trainyard. uv lies in /boot.
set -eu
here=$(dirname "$0")
export UV_NO_PROGRESS=1 UV_LINK_MODE=copy
python=/opt/airflow/bin/python

/boot/uv venv --quiet --python python3 /opt/airflow
/boot/uv pip sync --quiet --require-hashes --python "$python" "$here/airflow.txt"
# The lock serves checkouts too, which install this repository in editable form.
/boot/uv pip uninstall --quiet --python "$python" hatchling editables trove-classifiers

packages=$("$python" -c 'import site; print(site.getsitepackages()[0])')
echo /opt/trainyard/lib >"$packages/trainyard.pth"
for package in matplotlib numpy pandas pyarrow scipy sklearn; do
  find "$packages/$package" -type d -name tests -prune -exec rm -r {} +
done
# A container's root is read-only, and every task is a fresh process: it must compile nothing.
"$python" -m compileall -q -j 0 "$packages"
install -d -o trainyard -g trainyard /srv/airflow
"$python" -c 'import airflow, mlflow, pandas, pyarrow, scipy.stats, sklearn.datasets'
