"""Do the MPI ranks that a launcher started find each other? Standard library alone.

    srun --mpi=pmix -n 4 apptainer exec trainer.sif python /opt/trainyard/mpi_check.py

Every rank adds its number to a sum over all ranks; rank 0 prints ``ranks N, sum S, library …``.
Ends with 1 when the sum is wrong, or when there is but one rank although more were started: then
the image's MPI and the launcher's PMI do not speak with each other, and each rank believes it is
alone.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys


def library() -> ctypes.CDLL:
    """Return Open MPI's library, or end with what to do."""
    name = ctypes.util.find_library("mpi") or "libmpi.so.40"
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        sys.exit(f"no Open MPI in this image: {error}; build it with --build-arg MPI=yes")


def check() -> str:
    """Return what was found; raise ``SystemExit`` when the ranks do not add up."""
    mpi = library()
    mpi.MPI_Init(None, None)
    # Open MPI's predefined handles are addresses of global objects.
    world = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, "ompi_mpi_comm_world")))
    int_type = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, "ompi_mpi_int")))
    add = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, "ompi_mpi_op_sum")))
    rank, size, total = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    mpi.MPI_Comm_rank(world, ctypes.byref(rank))
    mpi.MPI_Comm_size(world, ctypes.byref(size))
    mpi.MPI_Allreduce(ctypes.byref(rank), ctypes.byref(total), 1, int_type, add, world)
    text, length = ctypes.create_string_buffer(512), ctypes.c_int()
    mpi.MPI_Get_library_version(text, ctypes.byref(length))
    mpi.MPI_Finalize()
    started = int(os.environ.get("SLURM_STEP_NUM_TASKS", size.value))
    told = f"ranks {size.value}, sum {total.value}, library {text.value.decode().split(',')[0]}"
    if size.value != started or total.value != size.value * (size.value - 1) // 2:
        sys.exit(f"{told}: {started} ranks were started; see the MPI section of docs/apptainer.md")
    return told if rank.value == 0 else ""


if __name__ == "__main__":
    if found := check():
        print(found, flush=True)
