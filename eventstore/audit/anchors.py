"""Anchors: places that keep signed heads where the operator of the store can't take them back.

Invariants: an anchor is a function that takes a note and raises StoreUnavailable where it could
not leave it; a file anchor never overwrites; nothing is sent but the note itself.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ..errors import StoreUnavailable
from ..files import checked_path, sync_directory, write_durably

Anchor = Callable[[bytes], None]
"""Keeps a signed note elsewhere; raises StoreUnavailable."""

SECONDS_MAX = 30.0
"""How long a command or a server may take."""

ANSWER_BYTES_MAX = 65_536
"""How much of a server's answer is read."""


def to_directory(path: Path) -> Anchor:
    """Return an anchor that writes each note into a directory, named by the note's SHA-256."""
    directory = checked_path(path, "path")

    def keep(note: bytes) -> None:
        place = directory / f"{sha256(note).hexdigest()}.note"
        beside = place.with_suffix(f".{os.getpid()}")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_durably(beside, note)
            beside.replace(place)
            sync_directory(directory)
        except OSError as error:
            what = f"no head can be left in {directory}: {error.strerror}"
            raise StoreUnavailable(what) from None

    return keep


def to_command(command: Sequence[str]) -> Anchor:
    """Return an anchor that gives each note to a command's standard input; it must exit with 0."""
    if not command:
        raise StoreUnavailable("no command is named that heads could be given to")

    def keep(note: bytes) -> None:
        try:
            done = subprocess.run(  # noqa: S603 - the operator's own command, without a shell
                list(command), input=note, capture_output=True, check=False, timeout=SECONDS_MAX
            )
        except OSError as error:
            raise StoreUnavailable(f"{command[0]} can't be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise StoreUnavailable(f"{command[0]} took over {SECONDS_MAX:.0f} s") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-200:]
            raise StoreUnavailable(f"{command[0]} ended with {done.returncode}: {said}")

    return keep


def to_url(url: str) -> Anchor:
    """Return an anchor that sends each note by POST; the server must answer with 200 to 299."""
    check_url(url)

    def keep(note: bytes) -> None:
        post(url, note, "text/plain; charset=utf-8")

    return keep


def check_url(url: str) -> None:
    """Raise StoreUnavailable for what is neither http nor https."""
    if not url.startswith(("https://", "http://")):
        raise StoreUnavailable(f"heads can be sent to http and https, not to {url!r}")


def post(url: str, content: bytes, kind: str) -> bytes:
    """Send bytes of a media type by POST and return the answer, up to ANSWER_BYTES_MAX.

    Raises StoreUnavailable where the server can't be reached or answers other than 200 to 299.
    """
    request = Request(url, content, {"Content-Type": kind}, method="POST")  # noqa: S310 - http(s)
    try:
        with build_opener(_NoRedirect).open(request, timeout=SECONDS_MAX) as answer:
            return bytes(answer.read(ANSWER_BYTES_MAX))
    except HTTPError as error:
        error.close()
        raise StoreUnavailable(f"{url} answered {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise StoreUnavailable(f"{url} can't be reached: {error}") from None


class _NoRedirect(HTTPRedirectHandler):
    """Takes a redirection for the refusal that it is: a POST sent on would arrive without body."""

    def redirect_request(self, *_: object) -> None:
        """Return no request to go on with."""
