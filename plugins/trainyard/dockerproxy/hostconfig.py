"""Rules for ``HostConfig``: how a container is held. Fields of the engine's API 1.24 to 1.51."""

from __future__ import annotations

from typing import Any

from trainyard.dockerproxy import mounts
from trainyard.dockerproxy.fields import (
    Check,
    absent,
    boolean,
    checked,
    is_unset,
    labels,
    never,
    number,
    one_of,
    texts,
    whole,
)
from trainyard.dockerproxy.policy import Policy, matches_any
from trainyard.dockerproxy.refusal import RefusedError

_HOST = "shares it with the host or with another container"
_ULIMITS = ("core", "data", "fsize", "memlock", "nofile", "nproc", "rtprio", "stack")
_LOG_OPTIONS = ("max-size", "max-file", "compress")
_GPU = {"gpu", "nvidia", "compute", "utility"}
_NO_NEW = ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")


def network(field: str, value: Any, policy: Policy) -> str:
    """Return the network *value* if containers may join it; empty means ``bridge``."""
    name = "bridge" if value in ("", "default") else value
    shared = isinstance(name, str) and (name == "host" or name.startswith("container:"))
    if not isinstance(name, str) or shared or not matches_any(policy.networks, name):
        rule = f"may not be joined; allowed networks: {', '.join(policy.networks)}"
        raise RefusedError(field, value, f"{_HOST}" if shared else rule)
    return name


def _memory(field: str, value: Any, policy: Policy) -> int:
    return number(field, value, 0, policy.memory_bytes)


def _shm(field: str, value: Any, policy: Policy) -> int:
    return number(field, value, 0, policy.shm_bytes)


def _pids(field: str, value: Any, policy: Policy) -> int:
    return number(field, value, 0, policy.pids)


def _security(field: str, value: Any, policy: Policy) -> list[str]:
    found = texts(field, value, policy)
    for item in found:
        if item not in _NO_NEW:
            raise RefusedError(field, item, f"only {_NO_NEW[1]} may be set, it adds protection")
    return found


def _runtime(field: str, value: Any, policy: Policy) -> str:
    if value and value not in policy.runtimes:
        raise RefusedError(
            field, value, f"allowed runtimes: {', '.join(policy.runtimes) or 'the default only'}"
        )
    return str(value)


def _restart(field: str, value: Any, policy: Policy) -> Any:
    known: dict[str, Check] = {
        "Name": one_of("", "no", why="a container must not outlive its task"),
        "MaximumRetryCount": never("a container must not outlive its task"),
    }
    return checked(field, value, known, policy)


def _log(field: str, value: Any, policy: Policy) -> Any:
    def options(inner: str, given: Any, _: Policy) -> dict[str, str]:
        for name in labels(inner, given, policy):
            if name not in _LOG_OPTIONS:
                raise RefusedError(f"{inner}.{name}", None, f"use {', '.join(_LOG_OPTIONS)}")
        return dict(given)

    kinds = one_of("", "json-file", "local", why="others send the log elsewhere")
    return checked(field, value, {"Type": kinds, "Config": options}, policy)


def _ulimits(field: str, value: Any, policy: Policy) -> Any:
    known: dict[str, Check] = {"Name": one_of(*_ULIMITS), "Soft": whole(-1), "Hard": whole(-1)}
    return [checked(f"{field}[{n}]", item, known, policy) for n, item in _items(field, value)]


def _items(field: str, value: Any) -> list[tuple[int, Any]]:
    if not isinstance(value, list):
        raise RefusedError(field, value, "must be a list")
    return list(enumerate(value))


def _gpu_words(field: str, value: Any, _: Policy) -> Any:
    flat = [word for _, words in _items(field, value) for _, word in _items(field, words)]
    for word in flat:
        if not isinstance(word, str) or word not in _GPU:
            raise RefusedError(field, word, f"use {', '.join(sorted(_GPU))}")
    if not flat:
        raise RefusedError(field, value, "must name gpu")
    return value


def _devices(field: str, value: Any, policy: Policy) -> Any:
    if value and not policy.gpus:
        raise RefusedError(field, value, "asks for GPUs, and gpus is false in the proxy's policy")
    known: dict[str, Check] = {
        "Driver": one_of("", "nvidia"),
        "Count": whole(-1, 64),
        "DeviceIDs": texts,
        "Capabilities": _gpu_words,
        "Options": never("driver options are not checked"),
    }
    found = [checked(f"{field}[{n}]", item, known, policy) for n, item in _items(field, value)]
    for place, item in enumerate(found):
        if "Capabilities" not in item:
            raise RefusedError(f"{field}[{place}].Capabilities", None, "must name gpu")
    return found


def _console(field: str, value: Any, policy: Policy) -> Any:
    del policy
    return [number(field, item, 0, 2**16) for _, item in _items(field, value)]


_UNUSED = (
    "Devices", "DeviceCgroupRules", "VolumesFrom", "VolumeDriver", "StorageOpt", "CapAdd", "Links",
    "ExtraHosts", "PortBindings", "PublishAllPorts", "CgroupParent", "Cgroup", "Sysctls",
    "GroupAdd", "Dns", "DnsOptions", "DnsSearch", "ContainerIDFile", "OomKillDisable",
    "KernelMemory", "KernelMemoryTCP", "CpuRealtimePeriod", "CpuRealtimeRuntime", "BlkioWeight",
    "BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps",
    "BlkioDeviceWriteIOps", "CpuCount", "CpuPercent", "IOMaximumIOps", "IOMaximumBandwidth",
    "DiskQuota", "Annotations",
)  # fmt: skip
HOST_FIELDS: dict[str, Check] = {
    **{name: never("is not permitted in a container of Trainyard") for name in _UNUSED},
    "Privileged": never("makes the container root on the host"),
    "MaskedPaths": absent("a list, even an empty one, uncovers parts of /proc and /sys"),
    "ReadonlyPaths": absent("a list, even an empty one, makes parts of /proc writable"),
    "Binds": mounts.binds,
    "Mounts": mounts.mounts,
    "Tmpfs": mounts.tmpfs,
    "NetworkMode": network,
    "IpcMode": one_of("", "private", "none", "shareable", why=_HOST),
    "PidMode": one_of("", why=_HOST),
    "UTSMode": one_of("", why=_HOST),
    "UsernsMode": one_of("", why=_HOST),
    "CgroupnsMode": one_of("", "private", why=_HOST),
    "Isolation": one_of("", "default"),
    "Runtime": _runtime,
    "SecurityOpt": _security,
    "CapDrop": texts,
    "ReadonlyRootfs": boolean,
    "Init": boolean,
    "AutoRemove": boolean,
    "RestartPolicy": _restart,
    "LogConfig": _log,
    "Ulimits": _ulimits,
    "DeviceRequests": _devices,
    "ShmSize": _shm,
    "Memory": _memory,
    "MemoryReservation": _memory,
    "MemorySwap": _memory,
    "MemorySwappiness": whole(-1, 100),
    "OomScoreAdj": whole(0, 1000),
    "PidsLimit": _pids,
    "CpuShares": whole(0, 2**18),
    "CpuPeriod": whole(0, 10**6),
    "CpuQuota": whole(0),
    "NanoCpus": whole(0),
    "CpusetCpus": lambda field, value, _: _cpuset(field, value),
    "CpusetMems": lambda field, value, _: _cpuset(field, value),
    "ConsoleSize": _console,
}


def _cpuset(field: str, value: Any) -> str:
    if not isinstance(value, str) or not set(value) <= set("0123456789,-"):
        raise RefusedError(field, value, "must be a list of cores such as 0-3,8")
    return value


def host_config(given: Any, policy: Policy) -> tuple[dict[str, Any], list[str]]:
    """Return the ``HostConfig`` to send and the fields that were filled in.

    What a client leaves out gets the policy's limits, no capabilities and no new privileges, since
    the provider's own DockerOperator has no way to ask for them. Raises ``RefusedError``.
    """
    found = checked("HostConfig", {} if given is None else given, HOST_FIELDS, policy)
    if "NetworkMode" not in found:
        found["NetworkMode"] = network("HostConfig.NetworkMode", "", policy)
    filled = []
    wanted = {
        "Memory": policy.memory_bytes,
        "PidsLimit": policy.pids,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
    }
    for name, value in wanted.items():
        if is_unset(found.get(name)):
            found[name] = value
            filled.append(f"HostConfig.{name}")
    if "ALL" not in found["CapDrop"]:
        raise RefusedError("HostConfig.CapDrop", found["CapDrop"], "must be ALL, or left out")
    swap = found.get("MemorySwap")
    if swap and swap < found["Memory"]:
        raise RefusedError("HostConfig.MemorySwap", swap, "must be Memory or more, or left out")
    return found, filled
