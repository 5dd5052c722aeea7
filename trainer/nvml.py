"""A few questions to NVIDIA's management library, without a package for it.

Symbols and constants: NVML API reference, nvml.h (``nvmlClocksEventReasons*``, formerly
``nvmlClocksThrottleReasons*``; the old symbol is kept by all drivers).
"""

from __future__ import annotations

import ctypes
from typing import Any

SM_CLOCK = 1
# Slowed for heat or power: software power cap 0x4, hardware slowdown 0x8, software thermal 0x20,
# hardware thermal 0x40, hardware power brake 0x80. Idle (0x1) and set clocks (0x2) are no fault.
THROTTLE_MASK = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
_VERSION_BYTES = 80
_MOST_PROCESSES = 64


class _Utilisation(ctypes.Structure):
    """nvmlUtilization_t: shares in percent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t (second version): who computes on a GPU, and how much memory it holds."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class Nvml:
    """One GPU as the driver sees it."""

    def __init__(self, uuid: str, library: Any, *, index: int | None = None) -> None:
        """Find the GPU called *uuid*, or the one at *index* among all of the machine.

        Raises ``OSError`` when the library refuses.
        """
        self._library = library
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        handle = ctypes.byref(self._device)
        if index is not None:
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), handle)
        else:
            name = ctypes.c_char_p(uuid.encode())
            self._call("nvmlDeviceGetHandleByUUID", name, handle)

    @classmethod
    def every(cls, library: Any = None) -> list[Nvml]:
        """Return all GPUs of the machine, without CUDA; none where there is no driver."""
        count = ctypes.c_uint()
        try:
            found = library or ctypes.CDLL("libnvidia-ml.so.1")
            if found.nvmlInit_v2() or found.nvmlDeviceGetCount_v2(ctypes.byref(count)):
                return []
            return [cls("", found, index=number) for number in range(count.value)]
        except OSError:
            return []

    @classmethod
    def of(cls, uuid: str) -> Nvml | None:
        """Return the GPU called *uuid* (``GPU-…``), or None where the library or GPU is missing."""
        try:
            return cls(uuid, ctypes.CDLL("libnvidia-ml.so.1"))
        except OSError:
            return None

    def clock_mhz(self) -> float:
        """Return the clock of the multiprocessors in MHz, 0 when the driver does not say."""
        value = ctypes.c_uint()
        return self._number("nvmlDeviceGetClockInfo", value, ctypes.c_int(SM_CLOCK))

    def utilisation(self) -> float | None:
        """Return the share of the last sample period (a sixth of a second to a second) in which a
        kernel ran, 0 to 1; None when the driver does not say (MIG instances have none).
        """
        found = _Utilisation()
        try:
            self._call("nvmlDeviceGetUtilizationRates", self._device, ctypes.byref(found))
        except OSError:
            return None
        return float(found.gpu) / 100

    def throttled(self) -> bool:
        """Whether the GPU runs below its clock for heat or power."""
        value = ctypes.c_ulonglong()
        reasons = int(self._number("nvmlDeviceGetCurrentClocksThrottleReasons", value))
        return bool(reasons & THROTTLE_MASK)

    def driver(self) -> str:
        """Return the driver's version, empty when it does not say."""
        text = ctypes.create_string_buffer(_VERSION_BYTES)
        try:
            self._call("nvmlSystemGetDriverVersion", text, ctypes.c_uint(_VERSION_BYTES))
        except OSError:
            return ""
        return text.value.decode(errors="replace")

    def ask(self, symbol: str, *arguments: int, values: int = 1, kind: Any = None) -> list[int]:
        """Return the *values* whole numbers that *symbol* answers to *arguments*, all unsigned.

        Empty when this driver or GPU does not know the question. *kind* is the numbers' C type.
        """
        answers = [(kind or ctypes.c_uint)() for _ in range(values)]
        given = [ctypes.c_uint(one) for one in arguments]
        try:
            self._call(symbol, self._device, *given, *(ctypes.byref(one) for one in answers))
        except OSError:
            return []
        return [int(one.value) for one in answers]

    def text(self, symbol: str) -> str:
        """Return the text that *symbol* answers, empty when it does not."""
        text = ctypes.create_string_buffer(_VERSION_BYTES + 16)
        try:
            self._call(symbol, self._device, text, ctypes.c_uint(len(text)))
        except OSError:
            return ""
        return text.value.decode(errors="replace")

    def processes(self) -> list[tuple[int, int]]:
        """Return (process id, bytes held) of all that compute on the GPU."""
        count = ctypes.c_uint(_MOST_PROCESSES)
        infos = (_Process * _MOST_PROCESSES)()
        symbol = "nvmlDeviceGetComputeRunningProcesses_v3"
        try:
            self._call(symbol, self._device, ctypes.byref(count), infos)
        except OSError:
            return []
        return [(int(one.pid), int(one.memory)) for one in infos[: count.value]]

    def distance(self, other: Nvml) -> int | None:
        """Return nvmlGpuTopologyLevel_t to *other*: 0 one board, 10 to 20 PCIe switches, 30 one
        host bridge, 40 one NUMA node, 50 the system; None when the driver does not say."""
        level = ctypes.c_uint()
        symbol = "nvmlDeviceGetTopologyCommonAncestor"
        try:
            self._call(symbol, self._device, other._device, ctypes.byref(level))
        except OSError:
            return None
        return int(level.value)

    def _number(self, symbol: str, value: Any, *arguments: Any) -> float:
        try:
            self._call(symbol, self._device, *arguments, ctypes.byref(value))
        except OSError:
            return 0.0
        return float(value.value)

    def _call(self, symbol: str, *arguments: Any) -> None:
        function = getattr(self._library, symbol, None)
        code = 1 if function is None else function(*arguments)
        if code:
            raise OSError(f"{symbol} answered {code}")
