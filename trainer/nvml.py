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


class _Utilisation(ctypes.Structure):
    """nvmlUtilization_t: shares in percent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Nvml:
    """One GPU as the driver sees it."""

    def __init__(self, uuid: str, library: Any) -> None:
        """Find the GPU called *uuid*; raises ``OSError`` when the library refuses."""
        self._library = library
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        name = ctypes.c_char_p(uuid.encode())
        self._call("nvmlDeviceGetHandleByUUID", name, ctypes.byref(self._device))

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
