"""Cluster and GPUs: machines, accelerators, queues and the services themselves."""

from __future__ import annotations

from trainyard.dashboards.model import Dashboard, Kind, Needs, Panel, Query, Row, Variable

_NODE = '{instance=~"$instance"}'
_NOT_LO = 'device!~"lo|veth.*|br-.*|docker.*", instance=~"$instance"'


def _lines(title: str, text: str, unit: str, *queries: Query, **more: object) -> Panel:
    return Panel(title=title, description=text, queries=queries, unit=unit, **more)  # type: ignore[arg-type]


def _gpu(title: str, text: str, metric: str, unit: str, **more: object) -> Panel:
    query = Query(expr=f"DCGM_FI_DEV_{metric}", legend="{{Hostname}} {{gpu}}")
    return _lines(title, text, unit, query, needs=Needs.GPU, **more)


_MACHINES = Row(
    title="Machines",
    panels=(
        _lines("CPU busy", "Share of all cores that do something.", "percentunit",
               Query(expr=f"trainyard:cpu_busy:ratio{_NODE}", legend="{{instance}}"),
               least=0, most=1),
        _lines("Memory available", "Share the kernel can still give: under 8 % is MemoryPressure.",
               "percentunit",
               Query(expr=f"trainyard:memory_available:ratio{_NODE}", legend="{{instance}}"),
               warn=0.2, bad=0.08, least=0, most=1),
        _lines("Disk free", "Share of each file system: DiskSpaceLow under 10 %, DiskAlmostFull "
               "under 3 %.", "percentunit",
               Query(expr=f"trainyard:disk_free:ratio{_NODE}",
                     legend="{{instance}} {{mountpoint}}"),
               warn=0.1, bad=0.03, least=0, most=1),
        _lines("Load", "Processes that run or want to, over one minute.", "none",
               Query(expr=f"node_load1{_NODE}", legend="{{instance}}"), least=0),
        _lines("Disk traffic", "Bytes read and written.", "Bps",
               Query(expr=f"sum by (instance) (rate(node_disk_read_bytes_total{_NODE}"
                     "[$__rate_interval]))", legend="{{instance}} read"),
               Query(expr=f"sum by (instance) (rate(node_disk_written_bytes_total{_NODE}"
                     "[$__rate_interval]))", legend="{{instance}} written")),
        _lines("Network traffic", "Bytes received and sent, virtual interfaces left out.", "Bps",
               Query(expr="sum by (instance) (rate(node_network_receive_bytes_total{"
                     f"{_NOT_LO}}}[$__rate_interval]))", legend="{{instance}} received"),
               Query(expr="sum by (instance) (rate(node_network_transmit_bytes_total{"
                     f"{_NOT_LO}}}[$__rate_interval]))", legend="{{instance}} sent")),
    ),
)  # fmt: skip

_GPUS = Row(
    title="GPUs",
    panels=(
        _gpu("Utilisation", "Share of the time in which a kernel ran: under half for long while "
             "runs go on is GpuUnderused.", "GPU_UTIL", "percent", least=0, most=100),
        _gpu("Memory used", "Framebuffer in use.", "FB_USED", "decmbytes", least=0),
        _gpu("Temperature", "A GPU that is too hot slows itself down and its run is flagged.",
             "GPU_TEMP", "celsius", warn=80, bad=88),
        _gpu("Power", "Power drawn.", "POWER_USAGE", "watt", least=0),
        _gpu("Clock", "Clock of the multiprocessors: a fall under load is throttling.",
             "SM_CLOCK", "rotmhz", least=0),
        _gpu("XID of the last fault", "0 is none; see NVIDIA's table of XID errors.",
             "XID_ERRORS", "none", bad=1),
    ),
)  # fmt: skip

_QUEUES = Row(
    title="Queues",
    panels=(
        _lines("Slurm jobs of ours", "By state. Many pending and none running: QueueStuck.", "none",
               Query(expr="trainyard_queue_jobs", legend="{{site}} {{state}}"), least=0),
        _lines("Oldest pending job", "How long it has waited.", "s",
               Query(expr="trainyard_queue_oldest_pending_seconds", legend="{{site}}"),
               warn=3600, bad=14400, least=0),
    ),
)  # fmt: skip

_SERVICES = Row(
    title="Services",
    panels=(
        Panel(title="Answering", description="1: Prometheus reaches it.", unit="none",
              queries=(Query(expr="min by (job) (up)", legend="{{job}}"),), kind=Kind.STAT,
              warn=1, bad=0),
        Panel(title="Sources of the exporter", unit="none", kind=Kind.STAT, warn=1, bad=0,
              description="1: read completely and not long ago. 0: what it tells is missing.",
              queries=(Query(expr="trainyard_source_up", legend="{{source}}"),)),
        _lines("Reading a source takes", "Seconds of its last complete reading.", "s",
               Query(expr="trainyard_source_duration_seconds", legend="{{source}}"), least=0),
        _lines("Lines that were no event", "In metrics.jsonl; more than a few mean that something "
               "else writes there.", "none",
               Query(expr="trainyard_run_lines_skipped_total", legend="lines"), least=0),
        Panel(title="Not read at all", unit="none", kind=Kind.TABLE,
              description="Sources that the exporter cannot read by their nature, and why; a "
              "single 0 means none.",
              queries=(Query(expr="trainyard_source_left_out or vector(0)"),)),
        Panel(title="Version of the exporter", unit="none", kind=Kind.TABLE,
              description="Version, commit and image digest, where known.",
              queries=(Query(expr="trainyard_build_info"),)),
    ),
)  # fmt: skip

CLUSTER = Dashboard(
    uid="trainyard-cluster",
    title="Cluster and GPUs",
    description="Are the machines, the GPUs, the queues and the services as they should be?",
    since="now-3h",
    refresh="30s",
    variables=(
        Variable(name="instance", label="Machine", metric="node_uname_info", key="instance"),
    ),
    rows=(_MACHINES, _GPUS, _QUEUES, _SERVICES),
)
