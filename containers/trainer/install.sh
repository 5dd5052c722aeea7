#!/bin/sh
# install.sh lock|base yes|no: makes /opt/trainer, the environment of the trainer. uv lies in /boot.
set -eu
torch=$1 gpu=$2
here=$(dirname "$0")
export UV_NO_PROGRESS=1 UV_LINK_MODE=copy
python=/opt/trainer/bin/python

case $torch in
  lock)
    /boot/uv venv --quiet --python python3 /opt/trainer
    /boot/uv pip sync --quiet --require-hashes --python "$python" "$here/trainer.txt"
    # The lock serves checkouts too, which install this repository in editable form.
    /boot/uv pip uninstall --quiet --python "$python" hatchling editables trove-classifiers pathspec pluggy
    case $gpu in
      yes) "$python" "$here/trim.py" gpu ;;
      no) "$python" "$here/trim.py" cpu ;;
      *) echo "GPU=$gpu: choose yes or no" >&2; exit 64 ;;
    esac
    ;;
  base)
    /boot/uv venv --quiet --python python3 --system-site-packages /opt/trainer
    /boot/uv pip install --quiet --require-hashes --python "$python" -r "$here/trainer-on-torch.txt"
    ;;
  *) echo "TORCH=$torch: choose lock or base" >&2; exit 64 ;;
esac

packages=$("$python" -c 'import site; print(site.getsitepackages()[0])')
echo /opt/trainyard/lib >"$packages/trainyard.pth"
# A container's root is read-only: what is not compiled now would be compiled at every start. Tests of
# torch that are written for other Pythons are no part of that.
"$python" -m compileall -q -j 0 -x 'torch/testing/|/tests?/' "$packages"
# torch and torchvision fit each other, and both load without a GPU.
"$python" -c 'import numpy, nvtx, psutil, torch, torchvision; print("torch", torch.__version__)'
