"""Certificates of the TLS proxy, made and checked by the real openssl."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import subprocess
import threading

import pytest

from tests.requirements import need
from trainyard.compose import certificates
from trainyard.errors import ConfigurationError, UnavailableError


@pytest.fixture(autouse=True)
def _openssl():
    need(shutil.which("openssl"), "openssl (apt-get install openssl)")


def handshake(folder, authority, name: str) -> dict:
    """Return the server's certificate as a client sees it that trusts *authority* alone."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    client = ssl.create_default_context(cafile=str(authority))
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as wrapped:
                wrapped.recv(1)
        except (ssl.SSLError, ConnectionError):
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=name) as wrapped:
            found = wrapped.getpeercert()
            wrapped.send(b"x")
            return found
    finally:
        near.close()
        thread.join()


def test_a_browser_that_trusts_the_authority_accepts_exactly_the_names(tmp_path):
    folder = tmp_path / "tls"
    authority = certificates.ensure(folder, "localhost, 127.0.0.1,bench.example.org")
    for name in ("localhost", "127.0.0.1", "bench.example.org"):
        assert handshake(folder, authority, name)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(folder, authority, "other.example.org")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600


def test_another_start_keeps_it_and_other_names_make_a_new_one_of_the_same_authority(tmp_path):
    authority = certificates.ensure(tmp_path, "localhost")
    first, trusted = (tmp_path / "tls.crt").read_bytes(), authority.read_bytes()
    certificates.ensure(tmp_path, "localhost")
    assert (tmp_path / "tls.crt").read_bytes() == first
    certificates.ensure(tmp_path, "localhost,other.example.org")
    assert (tmp_path / "tls.crt").read_bytes() != first
    assert authority.read_bytes() == trusted, "browsers would have to be told again"
    assert handshake(tmp_path, authority, "other.example.org")


def test_a_users_own_certificate_is_used_as_it_is(tmp_path):
    make(tmp_path, days=10)
    before = (tmp_path / "tls.crt").read_bytes()
    assert certificates.ensure(tmp_path, "localhost") == tmp_path / "tls.crt"
    assert (tmp_path / "tls.crt").read_bytes() == before
    assert not (tmp_path / "ca.key").exists()


def test_half_a_pair_and_a_pair_that_is_none_are_refused(tmp_path):
    make(tmp_path, days=10)
    key = (tmp_path / "tls.key").read_bytes()
    (tmp_path / "tls.key").unlink()
    with pytest.raises(ConfigurationError, match=r"tls.crt is there and .*tls.key is not"):
        certificates.ensure(tmp_path, "localhost")
    other = tmp_path / "other"
    other.mkdir()
    make(other, days=10)
    shutil.copy(other / "tls.key", tmp_path / "tls.key")
    with pytest.raises(ConfigurationError, match="do not belong together"):
        certificates.ensure(tmp_path, "localhost")
    (tmp_path / "tls.key").write_bytes(key)
    certificates.ensure(tmp_path, "localhost")


def test_an_expired_one_is_refused_by_name(tmp_path):
    make(tmp_path, days=-1)
    with pytest.raises(ConfigurationError, match=r"tls.crt has expired"):
        certificates.ensure(tmp_path, "localhost")


def test_no_names_and_no_tool_are_explained(tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="TLS_NAMES is empty"):
        certificates.ensure(tmp_path, " , ")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="apt-get install openssl"):
        certificates.ensure(tmp_path, "localhost")


def make(folder, days: int) -> None:
    """A self-signed pair, as a user might bring one; a negative life has ended."""
    key = folder / "tls.key"
    base = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-keyout", str(key), "-out", str(folder / "tls.crt")]  # fmt: skip
    if days > 0:
        subprocess.run([*base, "-days", str(days)], check=True, capture_output=True)
        return
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(private.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=2)).not_valid_after(now - timedelta(days=1))
        .sign(private, hashes.SHA256())
    )  # fmt: skip
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                              serialization.NoEncryption())
    )  # fmt: skip
