#!/bin/sh
# Makes /opt/mlflow, the environment of the tracking server. uv lies in /boot.
set -eu
here=$(dirname "$0")
export UV_NO_PROGRESS=1 UV_LINK_MODE=copy
python=/opt/mlflow/bin/python

/boot/uv venv --quiet --python python3 /opt/mlflow
/boot/uv pip sync --quiet --require-hashes --python "$python" "$here/mlflow.txt"
packages=$("$python" -c 'import site; print(site.getsitepackages()[0])')
for package in matplotlib numpy pandas pyarrow scipy sklearn; do
  find "$packages/$package" -type d -name tests -prune -exec rm -r {} +
done
# A container's root is read-only: what is not compiled now would be compiled at every start.
"$python" -m compileall -q -j 0 "$packages"
"$python" -c 'import boto3, mlflow.server, psycopg'
