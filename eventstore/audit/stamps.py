"""Stamps: a time authority's word for when a signed head existed (RFC 3161), as an anchor.

The package `rfc3161-client` makes and checks them (extra `stamps`).

Invariants: a stamp is checked before it is kept; it lies beside nothing but the note it is of,
named by the note's SHA-256; the certificates that are trusted are the caller's, never those that
came with the stamp.
"""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from cryptography.x509 import Certificate, load_pem_x509_certificates

from ..errors import ProofError, StoreUnavailable
from ..files import checked_path, put_durably, unavailable
from .anchors import Anchor, check_url, post

try:
    rfc3161: Any = import_module("rfc3161_client")
except ImportError:  # the extra is not installed: each function says so
    rfc3161 = None

QUERY = "application/timestamp-query"


def to_authority(url: str, directory: Path, roots: Sequence[Certificate]) -> Anchor:
    """Return an anchor that has each note stamped and keeps `<SHA-256 of the note>.tsr`.

    `roots` are the certificates that the authority's must lead to.
    """
    client = _client()
    check_url(url)
    place = checked_path(directory, "directory")

    def keep(note: bytes) -> None:
        path = stamp_path(place, note)
        if path.exists():
            return
        algorithm = client.HashAlgorithm.SHA256
        request = client.TimestampRequestBuilder().data(note).hash_algorithm(algorithm).build()
        raw = post(url, request.as_bytes(), QUERY)
        try:
            check_stamp(note, raw, roots, nonce=request.nonce)
        except ProofError as error:
            raise StoreUnavailable(f"{url} gave no good stamp: {error}") from None
        with unavailable(place):
            place.mkdir(parents=True, exist_ok=True)
            put_durably(path, raw)

    return keep


def check_stamp(
    note: bytes, stamp: bytes, roots: Sequence[Certificate], *, nonce: int | None = None
) -> datetime:
    """Return the time from which on the note is known to have existed; raises ProofError.

    `stamp` is the authority's whole reply (DER); `nonce` that of the request, where it is known.
    """
    client = _client()
    try:
        reply = client.decode_timestamp_response(stamp)
        made = client.VerifierBuilder(roots=list(roots), nonce=nonce).build()
        made.verify_message(reply, note)
    except (ValueError, client.VerificationError) as error:
        raise ProofError(f"the stamp does not hold: {error}") from None
    at: datetime = reply.tst_info.gen_time
    return at


def stamp_path(directory: Path, note: bytes) -> Path:
    """Return where the stamp of a note is kept."""
    return directory / f"{sha256(note).hexdigest()}.tsr"


def read_roots(path: Path) -> list[Certificate]:
    """Read the certificates of a PEM file; raises StoreUnavailable and ProofError."""
    with unavailable(path):
        raw = path.read_bytes()
    try:
        return load_pem_x509_certificates(raw)
    except ValueError:
        raise ProofError(f"{path} holds no PEM certificates") from None


def _client() -> Any:
    if rfc3161 is None:
        raise StoreUnavailable("stamps need rfc3161-client: install session-eventstore[stamps]")
    return rfc3161
