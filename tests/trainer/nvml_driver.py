"""A driver of GPUs that answers from a table, for machines that have none."""

import ctypes


class Driver:
    """A management library with GPUs whose answers a test writes down: symbol -> numbers."""

    def __init__(self, answers, processes=()):
        self.answers, self.running = answers, processes
        self.count = 2

    def __getattr__(self, symbol):
        if symbol.startswith("__"):
            raise AttributeError(symbol)
        return lambda *arguments: self.call(symbol, arguments)

    def call(self, symbol, arguments):
        if symbol == "nvmlInit_v2" or symbol.startswith("nvmlDeviceGetHandle"):
            return 0
        if symbol == "nvmlDeviceGetCount_v2":
            arguments[0]._obj.value = self.count
            return 0
        if symbol == "nvmlDeviceGetComputeRunningProcesses_v3":
            arguments[1]._obj.value = len(self.running)
            for place, (pid, held) in enumerate(self.running):
                arguments[2][place].pid, arguments[2][place].memory = pid, held
            return 0
        plain = tuple(a.value for a in arguments[1:] if isinstance(a, ctypes.c_uint))
        numbers = self.answers.get((symbol, *plain), self.answers.get(symbol))
        if numbers is None:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        if isinstance(numbers, bytes):
            arguments[1].value = numbers
            return 0
        out = [a._obj for a in arguments if type(a).__name__ == "CArgObject"]
        for target, number in zip(out, numbers, strict=True):
            target.value = number
        return 0


HEALTHY = {
    "nvmlDeviceGetName": b"NVIDIA H200",
    "nvmlDeviceGetMigMode": (0, 0),
    "nvmlDeviceGetEccMode": (1, 1),
    "nvmlDeviceGetPersistenceMode": (1,),
    "nvmlDeviceGetTotalEccErrors": (0,),
    "nvmlDeviceGetRemappedRows": (0, 0, 0, 0),
    "nvmlDeviceGetCurrPcieLinkGeneration": (5,),
    "nvmlDeviceGetMaxPcieLinkGeneration": (5,),
    "nvmlDeviceGetCurrPcieLinkWidth": (16,),
    "nvmlDeviceGetMaxPcieLinkWidth": (16,),
    "nvmlDeviceGetNvLinkState": (1,),
    "nvmlDeviceGetMaxClockInfo": (1980,),
    ("nvmlDeviceGetMaxClockInfo", 2): (3201,),
    "nvmlDeviceGetMemoryBusWidth": (6144,),
    "nvmlDeviceGetEnforcedPowerLimit": (700_000,),
    "nvmlDeviceGetPowerManagementDefaultLimit": (700_000,),
}
