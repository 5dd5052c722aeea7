"""Look every locked package up in an advisory service, and what built images hold.

``audit.py [--images IMAGE …] [--url URL] [LOCK …]`` asks a service that speaks OSV's API (osv.dev,
or the mirror that TRAINYARD_OSV_URL names) through pip-audit. Exit codes: 0 nothing known, 1
something known, 3 not audited: the service does not answer, or does not know an old, famous flaw.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIP_AUDIT = HERE.parent / ".trainyard" / "envs" / "audit" / "bin" / "pip-audit"
SERVICE = "https://api.osv.dev/v1/query"
ACCEPTED = HERE / "audit-accepted.txt"
FOUND, NOT_AUDITED = 1, 3
# A service that has nothing to say about this one would have nothing to say about any.
CANARY = {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "version": "2.4.1"}
_TIMEOUT_S = 15.0
_INSIDE = """
import glob, importlib.metadata as m, json, subprocess
places = glob.glob("/opt/*/lib/python3*/site-packages") + glob.glob("/opt/trainyard/lib")
found = {(d.metadata["Name"], d.version) for d in m.distributions(path=places)}
print(json.dumps(sorted(found)))
"""
_PENDING = "apt-get update -qq >&2 && apt-get -s -qq dist-upgrade"


class NotAuditedError(Exception):
    """No answer that could be relied on."""


def probe(url: str) -> None:
    """Raise ``NotAuditedError`` unless the service at *url* answers and knows the canary."""
    request = urllib.request.Request(
        url, json.dumps(CANARY).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            known = json.load(answer).get("vulns", [])
    except (OSError, ValueError, AttributeError) as error:
        raise NotAuditedError(f"service unreachable: {url}: {error}") from error
    if not known:
        name = f"{CANARY['package']['name']} {CANARY['version']}"
        raise NotAuditedError(f"{url} knows nothing about {name}, which has known flaws: no use")


def accepted() -> dict[str, str]:
    """Return the advisories that somebody looked at and accepted, each with its reason."""
    found = {}
    for line in ACCEPTED.read_text().splitlines() if ACCEPTED.exists() else []:
        identity, _, why = line.partition("  ")
        if identity and not identity.startswith("#"):
            if not why.strip():
                raise SystemExit(f"{ACCEPTED.name}: {identity} has no reason; write why after it")
            found[identity] = why.strip()
    return found


def audit(requirements: Path, url: str) -> list[str]:
    """Return what is known about the packages pinned in *requirements*, a line each."""
    command = [str(PIP_AUDIT), "--requirement", str(requirements), "--disable-pip", "--no-deps"]
    command += ["--vulnerability-service", "osv", "--osv-url", url, "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", str(round(_TIMEOUT_S))]
    for identity in accepted():
        command += ["--ignore-vuln", identity]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        raise NotAuditedError(f"pip-audit on {requirements.name}: {done.stderr.strip()[-500:]}")
    packages = json.loads(done.stdout)["dependencies"]
    if skipped := [item["name"] for item in packages if "skip_reason" in item]:
        raise NotAuditedError(f"{requirements.name}: not looked up: {', '.join(skipped)}")
    print(f"{requirements.name}: {len(packages)} packages looked up", flush=True)
    return [
        f"{item['name']} {item['version']}: {flaw['id']} {' '.join(flaw.get('aliases', []))}; "
        f"fixed in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for item in packages
        for flaw in item["vulns"]
    ]


def packages_of(image: str) -> list[str]:
    """Return the Python packages in *image* as pins; ours alone is in no index."""
    done = _inside(image, ["python3", "-c", _INSIDE])
    ours = {"trainyard", "trainer"}
    return [f"{name}=={version}" for name, version in json.loads(done) if name not in ours]


def pending(image: str) -> list[str]:
    """Return the Debian packages of *image* for which Debian has a newer version, a line each."""
    lines = _inside(image, ["sh", "-c", _PENDING]).splitlines()
    return [f"{image}: {line[5:]}" for line in lines if line.startswith("Inst ")]


def _inside(image: str, argv: list[str]) -> str:
    command = ["docker", "run", "--rm", "--user", "0", "--entrypoint", argv[0], image, *argv[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotAuditedError(f"{image}: {' '.join(argv[:2])}: {done.stderr.strip()[-500:]}")
    return done.stdout


def locks() -> list[Path]:
    """Return every lock."""
    return sorted(path for path in HERE.glob("*.txt") if path != ACCEPTED)


def look(paths: Iterable[Path], images: Iterable[str], url: str) -> list[str]:
    """Return everything known about the packages of locks and images."""
    found = []
    for image in images:
        found += (newer := pending(image))
        # Said at once: Debian's archive may answer where the advisory service does not.
        print("\n".join([f"{image}: {len(newer)} Debian packages have a newer version", *newer]))
    probe(url)
    for path in paths:
        found += [f"{path.name}: {line}" for line in audit(path, url)]
    for image in images:
        with tempfile.TemporaryDirectory() as folder:
            frozen = Path(folder) / f"{image.replace('/', '-').replace(':', '-')}.txt"
            frozen.write_text("\n".join(packages_of(image)))
            found += [f"{image}: {line}" for line in audit(frozen, url)]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("locks", nargs="*", help="names of locks; none: all of them")
    parser.add_argument("--images", nargs="*", default=[], help="images to look into as well")
    parser.add_argument("--url", default=os.environ.get("TRAINYARD_OSV_URL", SERVICE))
    options = parser.parse_args(argv)
    paths = [HERE / f"{name}.txt" for name in options.locks] or locks()
    try:
        found = look(paths, options.images, options.url)
    except NotAuditedError as error:
        print(f"not audited: {error}", file=sys.stderr)
        return NOT_AUDITED
    for line in found:
        print(line)
    told = f"{len(found)} known flaws" if found else "nothing known against any package"
    print(f"audit: {told}; {len(accepted())} accepted")
    return FOUND if found else 0


if __name__ == "__main__":
    sys.exit(main())
