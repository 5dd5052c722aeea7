"""Which image it is: its SHA-256, found out once per image file and then read beside it.

The digest is data to everything that renders: it is found when a study is planned, stands in
plan.json with the site, and every start looks whether the file is still the same
(``prefix.CHANGED``). Commands run through a transport: on this host, or where a Slurm site's
commands run, since the image may lie on the cluster's file systems alone.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from trainer.contract import ContractError, dumps, loads
from trainyard.apptainer.site import ImageIdentity
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.sites import Site
from trainyard.slurm.transport import Transport

LOG = logging.getLogger(__name__)

SUFFIX = ".identity.json"
"""What the record beside an image is called: the image's name and this."""
_HASH_S = 1800.0  # a 20 GB image at a slow network file system's 12 MB/s


def identified(site: Site, transport: Transport) -> Site:
    """Return *site* with the identity of its image; a site without an image as it is.

    Raises what ``identify`` raises.
    """
    if site.apptainer is None:
        return site
    identity = identify(site.apptainer.file, transport)
    return replace(site, apptainer=replace(site.apptainer, identity=identity))


def identify(file: str, transport: Transport) -> ImageIdentity:
    """Return the identity of the image *file* where *transport* leads.

    The record beside the image counts while size, time of change and inode are still those of the
    file; else the file is read, and the record written where that is allowed. Raises
    ``ConfigurationError`` when there is no such file or it cannot be read, and
    ``UnavailableError`` when it changes meanwhile, as one that is still being copied does.
    """
    seen = _stat(file, transport)
    kept = _kept(file, transport)
    if kept is not None and (kept.size, kept.mtime, kept.inode) == seen:
        return kept
    done = transport.run(["sha256sum", "--", file], timeout=_HASH_S)
    # sha256sum begins the line with a backslash when the name holds one.
    words = done.stdout.lstrip("\\").split(maxsplit=1)
    if done.rc or not words:
        raise ConfigurationError(
            f"image {file}: cannot be read: {done.stderr.strip()}; make it readable for the user "
            "that starts the runs"
        )
    if _stat(file, transport) != seen:
        raise UnavailableError(
            f"image {file} changed while it was read: wait until it is copied completely"
        )
    size, mtime, inode = seen
    identity = ImageIdentity(sha256=words[0], size=size, mtime=mtime, inode=inode)
    _keep(file, identity, transport)
    return identity


def _stat(file: str, transport: Transport) -> tuple[int, str, int]:
    """Return size, time of change and inode; links are followed."""
    done = transport.run(["env", "LC_ALL=C", "stat", "-L", "-c", "%s %.9Y %i %F", "--", file])
    if done.rc:
        raise ConfigurationError(
            f"image {file}: {done.stderr.strip()}; build it or copy it there "
            "(docs/apptainer.md), or correct apptainer.image of the site"
        )
    size, mtime, inode, kind = done.stdout.split(maxsplit=3)
    if kind.strip() != "regular file":
        raise ConfigurationError(
            f"image {file} is a {kind.strip()}, and only a file has a digest: build one from it "
            f"with `apptainer build trainer.sif {file}`"
        )
    return int(size), mtime, int(inode)


def _kept(file: str, transport: Transport) -> ImageIdentity | None:
    done = transport.run(["cat", "--", f"{file}{SUFFIX}"])
    if done.rc:
        return None
    try:
        return loads(ImageIdentity, done.stdout, f"{file}{SUFFIX}")
    except (ContractError, ConfigurationError) as error:
        LOG.warning("%s; reading the image again", error)
        return None


def _keep(file: str, identity: ImageIdentity, transport: Transport) -> None:
    """Write the record in one step; images often lie where only administrators may write."""
    script = 'umask 022; cat >"$1.$$" && mv -f "$1.$$" "$1" || { rm -f "$1.$$"; exit 1; }'
    argv = ["sh", "-c", script, "keep", f"{file}{SUFFIX}"]
    done = transport.run(argv, stdin=dumps(identity) + "\n")
    if done.rc:
        LOG.info("%s%s: cannot be written, so every plan reads the image again", file, SUFFIX)
