"""Make a Debian base image on this machine, for places where no container registry answers.

``python3 containers/bootstrap.py`` makes ``trainyard/base:bookworm`` with mmdebstrap and prints its
name; called again, it finds that image and returns at once. The image carries the certificate
authorities that this machine trusts beside its distribution's, as behind a company's mirror.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "bookworm"  # its Python is the 3.11 that the locks are resolved for
PACKAGES = ("ca-certificates", "python3", "python3-venv")
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
KEY = "trainyard.base.key"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_INSTALL = "as root: apt-get install mmdebstrap"
# pip, uv and requests look in different places for the authorities they trust.
_ENVIRONMENT = {"SSL_CERT_FILE": BUNDLE, "PIP_CERT": BUNDLE, "REQUESTS_CA_BUNDLE": BUNDLE}


class BootstrapError(Exception):
    """The base image cannot be made; the message says what to do."""


def ensure(suite: str = SUITE) -> str:
    """Return the name of the base image of *suite*, making it when missing or out of date.

    Raises ``BootstrapError`` when mmdebstrap is missing or fails, or no Docker engine answers.
    """
    tag = f"trainyard/base:{suite}"
    authorities = own_authorities()
    text = "\n".join([suite, *PACKAGES, *authorities, *_ENVIRONMENT, Path(__file__).read_text()])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    if _label(tag) == key:
        return tag
    program = shutil.which("mmdebstrap")
    if program is None:
        raise BootstrapError(f"mmdebstrap is not installed; {_INSTALL}")
    with tempfile.TemporaryDirectory(prefix="trainyard-base-") as folder:
        root = Path(folder) / "base.tar"
        _make(program, suite, root, Path(folder), authorities)
        _import(root, tag, key)
    return tag


def own_authorities() -> list[str]:
    """Return, as PEM texts, the authorities this machine trusts beside its distribution's."""
    bundle = Path(os.environ.get("SSL_CERT_FILE") or BUNDLE)
    if not bundle.is_file():
        return []
    shipped = set()
    for path in Path("/usr/share/ca-certificates").rglob("*.crt"):
        shipped.update(_PEM.findall(path.read_text(errors="replace")))
    return [found for found in _PEM.findall(bundle.read_text()) if found not in shipped]


def _label(tag: str) -> str:
    asked = ["docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{KEY}"}}}}', tag]
    answer = subprocess.run(asked, check=False, capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _make(program: str, suite: str, root: Path, folder: Path, authorities: list[str]) -> None:
    trusted = folder / "trusted"
    trusted.mkdir()
    for index, text in enumerate(authorities):
        (trusted / f"machine-{index}.crt").write_text(text + "\n")
    command = [program, "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    command += [
        f"--customize-hook=copy-in {path} /usr/local/share/ca-certificates"
        for path in sorted(trusted.iterdir())
    ]
    command += ['--customize-hook=chroot "$1" update-ca-certificates', suite, str(root)]
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise BootstrapError(
            f"mmdebstrap --variant=minbase {suite} ended with exit code {done.returncode}:\n"
            f"{done.stdout[-2000:]}\nNext step: see that apt-get update works on this machine"
        )


def _import(root: Path, tag: str, key: str) -> None:
    command = ["docker", "import", "--change", f"LABEL {KEY}={key}", "--change", 'CMD ["bash"]']
    for name, value in _ENVIRONMENT.items():
        command += ["--change", f"ENV {name}={value}"]
    done = subprocess.run([*command, str(root), tag], check=False, capture_output=True, text=True)
    if done.returncode:
        raise BootstrapError(f"docker import {tag}: {done.stderr.strip()}")


def main() -> None:
    """Print the name of the image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--suite", default=SUITE, help=f"Debian release (default: {SUITE})")
    try:
        print(ensure(parser.parse_args().suite))
    except BootstrapError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
