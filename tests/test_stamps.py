"""Stamps of a time authority: asked for, checked against trusted roots, kept beside the heads.

The authority is a real one, OpenSSL's, behind a server of this test.
"""

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from eventstore import EventStore, ProofError, StoreUnavailable
from eventstore.audit import stamps
from eventstore.audit.heads import Heads
from eventstore.audit.note import origin_of
from eventstore.audit.signer import SigningKey
from eventstore.audit.stamps import check_stamp, read_roots, stamp_path, to_authority

needs_authority = pytest.mark.skipif(
    stamps.rfc3161 is None or shutil.which("openssl") is None,
    reason="a time authority needs rfc3161-client and openssl",
)

CONFIG = """
[tsa]
serial = {home}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


def certificate(home: Path, name: str, issuer: str) -> None:
    """Make a key and a certificate: a root where `issuer` is the name itself, else an authority."""
    key = rsa.generate_private_key(65_537, 2_048)
    raw = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (home / f"{name}.key").write_bytes(raw)
    signer = serialization.load_pem_private_key((home / f"{issuer}.key").read_bytes(), None)
    now, is_root = datetime.now(UTC), name == issuer
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(is_root, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if not is_root:
        stamping = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        made = made.add_extension(stamping, critical=True)
    done = made.sign(signer, hashes.SHA256())
    (home / f"{name}.pem").write_bytes(done.public_bytes(serialization.Encoding.PEM))


class Authority(http.server.BaseHTTPRequestHandler):
    """Answers each query with OpenSSL's stamp, or with what `answer` says instead."""

    def do_POST(self) -> None:
        home: Path = self.server.home
        (home / "query").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Content-Type"] == "application/timestamp-query"
        command = f"openssl ts -reply -config {home}/config -section tsa -queryfile {home}/query"
        keys = f"-signer {home}/authority.pem -inkey {home}/authority.key -out {home}/reply"
        subprocess.run(f"{command} {keys}".split(), check=True, capture_output=True)
        self.server.asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.answer or (home / "reply").read_bytes())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with a root, an authority under it, and another root."""
    made = tmp_path_factory.mktemp("authority")
    (made / "config").write_text(CONFIG.format(home=made))
    (made / "serial").write_text("01\n")
    for name, issuer in (("root", "root"), ("other", "other"), ("authority", "root")):
        certificate(made, name, issuer)
    return made


@pytest.fixture
def server(home: Path) -> Iterator[http.server.HTTPServer]:
    """Give the authority's server."""
    made = http.server.HTTPServer(("127.0.0.1", 0), Authority)
    made.home, made.answer, made.asked = home, b"", 0
    made.url = f"http://127.0.0.1:{made.server_port}/"
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@needs_authority
def test_a_head_is_stamped(disk: EventStore, home: Path, server, tmp_path: Path):
    """A signed head gets a stamp that the authority's root vouches for, once, and no other text."""
    roots = read_roots(home / "root.pem")
    key = SigningKey.generate(origin_of("example.com/support", disk.id))
    anchor = to_authority(server.url, tmp_path / "stamps", roots)
    heads = Heads(disk, key, tmp_path / "last.note", anchors=[anchor])
    before = datetime.now(UTC) - timedelta(seconds=2)
    note = heads.sign()
    stamp = stamp_path(tmp_path / "stamps", note).read_bytes()
    assert before <= check_stamp(note, stamp, roots) <= datetime.now(UTC) + timedelta(seconds=2)
    assert (heads.sign(), server.asked) == (note, 1)
    with pytest.raises(ProofError):
        check_stamp(note + b"x", stamp, roots)
    with pytest.raises(ProofError):
        check_stamp(note, stamp, read_roots(home / "other.pem"))


@needs_authority
def test_every_changed_byte_of_a_stamp_is_refused(home: Path, server, tmp_path: Path):
    """No altered stamp proves another time."""
    roots, note = read_roots(home / "root.pem"), b"a note\n"
    to_authority(server.url, tmp_path, roots)(note)
    stamp = stamp_path(tmp_path, note).read_bytes()
    due = check_stamp(note, stamp, roots)
    for at in range(0, len(stamp), 7):
        altered = bytearray(stamp)
        altered[at] ^= 1
        try:
            found = check_stamp(note, bytes(altered), roots)
        except ProofError:
            continue
        assert found == due, at
    for cut in (b"", stamp[:-1], stamp[: len(stamp) // 2], b"no stamp"):
        with pytest.raises(ProofError):
            check_stamp(note, cut, roots)


@needs_authority
def test_a_bad_answer_is_not_kept(home: Path, server, tmp_path: Path):
    """A stamp of another request, of an unknown root, or no stamp at all leaves no file."""
    roots = read_roots(home / "root.pem")
    to_authority(server.url, tmp_path / "first", roots)(b"first\n")
    replayed = stamp_path(tmp_path / "first", b"first\n").read_bytes()
    for answer, known in ((b"no stamp", "root"), (replayed, "root"), (b"", "other")):
        server.answer = answer
        anchor = to_authority(server.url, tmp_path / "kept", read_roots(home / f"{known}.pem"))
        with pytest.raises(StoreUnavailable, match="gave no good stamp"):
            anchor(b"first\n" if answer == replayed else b"second\n")
    assert not (tmp_path / "kept").exists()


@needs_authority
def test_only_the_web_and_only_certificates(home: Path, tmp_path: Path):
    """Other addresses and files without certificates are refused before anything is sent."""
    with pytest.raises(StoreUnavailable, match="http and https"):
        to_authority("file:///etc", tmp_path, [])
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(ProofError, match="no PEM certificates"):
        read_roots(tmp_path / "x.pem")
    with pytest.raises(StoreUnavailable):
        read_roots(tmp_path / "none.pem")


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch):
    """A missing package is one clear error, and nothing is sent."""
    monkeypatch.setattr(stamps, "rfc3161", None)
    with pytest.raises(StoreUnavailable, match=r"session-eventstore\[stamps\]"):
        to_authority("http://127.0.0.1:1/", tmp_path, [])
