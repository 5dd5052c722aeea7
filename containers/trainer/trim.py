"""Take out of the trainer's environment what no run in this image can use.

``trim.py gpu``: for machines with GPUs. ``trim.py cpu``: also the GPU libraries that importing
torch does not load; its extension modules are linked against the others, so those stay.
"""

from __future__ import annotations

import importlib
import shutil
import site
import sys
from pathlib import Path

PACKAGES = Path(site.getsitepackages()[0])
# Headers, static libraries and device bitcode serve compilers, and the image has none. Nor can
# Triton work without one: it compiles the launcher of each kernel with the system's C compiler.
FOLDERS = (
    "triton",
    "torch/include",
    "torch/share/cmake",
    "torch/test",
    "nvidia/cu13/include",
    "nvidia/cudnn/include",
    "nvidia/nccl/include",
    "nvidia/nvshmem/include",
)
FILES = ("nvidia/**/*.a", "nvidia/**/*.bc", "torch/lib/*.a")


def main(kind: str) -> None:
    """Trim for *kind* and print the sizes before and after."""
    before = size()
    for folder in FOLDERS:
        shutil.rmtree(PACKAGES / folder, ignore_errors=True)
    for pattern in FILES:
        for path in PACKAGES.glob(pattern):
            path.unlink()
    if kind == "cpu":
        drop_unloaded()
    print(f"trimmed for {kind}: {before / 1e9:.2f} GB to {size() / 1e9:.2f} GB", flush=True)


def drop_unloaded() -> None:
    """Remove every library under nvidia/ that the trainer's imports leave unloaded."""
    importlib.import_module("torch.distributed")
    importlib.import_module("torchvision")

    loaded = {
        Path(line.split()[-1]).resolve()
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/nvidia/" in line
    }
    for path in PACKAGES.glob("nvidia/**/*.so*"):
        if path.resolve() not in loaded:
            path.unlink()


def size() -> int:
    """Return the bytes of all files of the environment."""
    return sum(path.lstat().st_size for path in PACKAGES.rglob("*") if path.is_file())


if __name__ == "__main__":
    if sys.argv[1:] not in (["gpu"], ["cpu"]):
        sys.exit(f"trim.py {sys.argv[1:]}: choose gpu or cpu")
    main(sys.argv[1])
