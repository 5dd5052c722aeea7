"""A certificate for the TLS proxy: the user's own, or one of a certificate authority made here."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

from trainyard.compose.envfile import write_private
from trainyard.compose.render import LoginKeys
from trainyard.errors import ConfigurationError, UnavailableError

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 397
"""Longer ones are refused by some browsers (Apple, 2020)."""
_RENEW_S = 30 * 24 * 3600
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def subject_names(text: str) -> str:
    """Return the subjectAltName of the names and addresses in *text*, separated by commas.

    Raises ``ConfigurationError`` when there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigurationError(
            "TLS_NAMES is empty: name what browsers will type, such as bench.example.org,10.0.0.5"
        )
    return ",".join(f"{_kind(name)}:{name}" for name in names)


def _kind(name: str) -> str:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "DNS"
    return "IP"


def ensure(folder: Path, names: str) -> Path:
    """Make certificate authority and server certificate in *folder* unless good ones are there.

    ``tls.crt`` and ``tls.key`` that a person put there are used as they are. Returns the
    certificate that browsers must trust. Raises ``ConfigurationError`` for a pair that does not
    belong together or has expired, ``UnavailableError`` without openssl.
    """
    certificate, key, authority = folder / "tls.crt", folder / "tls.key", folder / "ca.crt"
    ours = (folder / "ca.key").is_file()
    if certificate.is_file() != key.is_file():
        present, missing = (certificate, key) if certificate.is_file() else (key, certificate)
        raise ConfigurationError(f"{present} is there and {missing} is not; give both or neither")
    if not certificate.is_file() or (ours and not _is_good(certificate, names)):
        _make(folder, names)
    _check_pair(certificate, key)
    # The proxy's user has another number than ours; the folder keeps everybody else out.
    folder.chmod(0o700)
    key.chmod(0o644)
    return authority if ours or authority.is_file() else certificate


def _is_good(certificate: Path, names: str) -> bool:
    """Whether it outlives the next month and holds exactly *names*."""
    try:
        _openssl("x509", "-in", str(certificate), "-noout", "-checkend", str(_RENEW_S))
    except ConfigurationError:
        return False
    return (certificate.parent / "names").read_text() == subject_names(names)


def _make(folder: Path, names: str) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    alternative = subject_names(names)
    authority, authority_key = folder / "ca.crt", folder / "ca.key"
    if not authority_key.is_file():
        _openssl("req", "-x509", "-new", *_CURVE, "-days", str(_AUTHORITY_DAYS),
                 "-subj", "/CN=Trainyard local authority", "-keyout", str(authority_key),
                 "-out", str(authority), "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0",
                 "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
        authority_key.chmod(0o600)
    request, options = folder / "tls.csr", folder / "tls.cnf"
    _openssl("req", "-new", *_CURVE, "-subj", "/CN=Trainyard", "-keyout", str(folder / "tls.key"),
             "-out", str(request))  # fmt: skip
    options.write_text(
        f"subjectAltName={alternative}\nbasicConstraints=critical,CA:FALSE\n"
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    _openssl("x509", "-req", "-in", str(request), "-CA", str(authority),
             "-CAkey", str(authority_key), "-CAcreateserial", "-days", str(_SERVER_DAYS),
             "-sha256", "-extfile", str(options), "-out", str(folder / "tls.crt"))  # fmt: skip
    request.unlink()
    options.unlink()
    write_private(folder / "names", alternative)


def _check_pair(certificate: Path, key: Path) -> None:
    in_certificate = _openssl("x509", "-in", str(certificate), "-noout", "-pubkey")
    in_key = _openssl("pkey", "-in", str(key), "-pubout", "-passin", "pass:")
    if in_certificate.strip() != in_key.strip():
        raise ConfigurationError(
            f"{certificate} and {key} do not belong together: their public keys differ"
        )
    try:
        _openssl("x509", "-in", str(certificate), "-noout", "-checkend", "0")
    except ConfigurationError as error:
        raise ConfigurationError(f"{certificate} has expired; replace it and its key") from error


def _openssl(*arguments: str) -> str:
    return tool("openssl", *arguments)


def tool(name: str, *arguments: str, package: str = "") -> str:
    """Return what a command-line tool prints; *package*: the Debian package that has it."""
    try:
        done = subprocess.run([name, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UnavailableError(
            f"{name} is not installed; on Debian and Ubuntu: apt-get install {package or name}"
        ) from error
    if done.returncode:
        raise ConfigurationError(f"{name} {' '.join(arguments[:2])}: {done.stderr.strip()[-500:]}")
    return done.stdout


def login_keys(folder: Path) -> LoginKeys:
    """Make the SSH key of users and that of the login node once; return both.

    Raises ``UnavailableError`` without ssh-keygen.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    user, host = folder / "user_key", folder / "host_key"
    for path in (user, host):
        if not path.is_file():
            tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "trainyard", "-f", str(path),
                 package="openssh-client")  # fmt: skip
    return LoginKeys(
        host_public=_public(host),
        host_private=host.read_text(),
        user_public=_public(user),
        user_private=user.read_text(),
    )


def _public(private: Path) -> str:
    kind, key, *_ = private.with_suffix(".pub").read_text().split()
    return f"{kind} {key}"
