"""The volume that files lie on: whether it is a network's, and how much room is left.

Invariants: nothing here writes; where the system does not tell, nothing is refused.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import StoreFull, StoreUnavailable
from ..limits import RESERVE_BYTES

MOUNTS = Path("/proc/self/mountinfo")
"""Where Linux lists its mounts: proc(5)."""

_SHARED = "afs beegfs ceph cifs coda gfs2 gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs smb3 smbfs 9p"
_SHARED_FUSE = "fuse.ceph fuse.glusterfs fuse.s3fs fuse.sshfs"
NETWORK_KINDS = frozenset(f"{_SHARED} {_SHARED_FUSE}".split())
"""File systems of which several machines see one: memory maps and locks go apart on them."""

INSIST, ALLOWED = "EVENTSTORE_NETWORK_FILESYSTEM", "allow"
"""The environment variable that lets a store lie on one of them, and its value."""

_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """Where a file system is mounted, and its kind, such as `ext4`."""

    point: str
    kind: str


def mount_of(path: Path) -> Mount | None:
    """Return the mount that a path is on or would be on, None where the system does not tell."""
    try:
        return mount_in(MOUNTS.read_text(errors="replace"), str(path.resolve()))
    except OSError:
        return None


def mount_in(mounts: str, place: str) -> Mount | None:
    """Return the mount of a list like MOUNTS that an absolute path without links is on."""
    found: Mount | None = None
    for mount in map(_parsed, mounts.splitlines()):
        inside = mount is not None and f"{place}/".startswith(mount.point.rstrip("/") + "/")
        if mount is not None and inside and (not found or len(mount.point) >= len(found.point)):
            found = mount  # of two at one place the later one hides the earlier
    return found


def _parsed(line: str) -> Mount | None:
    fields, _, source = line.partition(" - ")
    places, kinds = fields.split(), source.split()
    if len(places) < 5 or not kinds:  # noqa: PLR2004 - the fifth field is the mount point
        return None
    return Mount(_ESCAPE.sub(lambda each: chr(int(each[1], 8)), places[4]), kinds[0])


def is_network(mount: Mount | None) -> bool:
    """Return True for a file system of a network."""
    return mount is not None and mount.kind in NETWORK_KINDS


def check_local(path: Path) -> None:
    """Raise StoreUnavailable where a path is on a network's file system, unless INSIST allows it.

    LMDB's documentation rules them out: other machines see neither its locks nor its map.
    """
    check_mount(path, mount_of(path))


def check_mount(path: Path, mount: Mount | None) -> None:
    """Like check_local, for a path on a known mount."""
    if mount is not None and is_network(mount) and os.environ.get(INSIST) != ALLOWED:
        raise StoreUnavailable(
            f"{path} is on a network file system ({mount.kind} at {mount.point}), where locks and "
            f"memory maps are not safe; use a local disk, or set {INSIST}={ALLOWED} if no other "
            "machine ever opens it"
        )


def free_bytes(path: Path) -> int | None:
    """Return the bytes that may still be written below an existing path, None where unknown."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def check_room(path: Path) -> int:
    """Return the bytes that are free, more than any disk's where that is unknown.

    Raises StoreFull where less than RESERVE_BYTES are left.

    The reserve is for what must not fail half-way: LMDB's own tables, and marks of who has it open.
    """
    free = free_bytes(path)
    if free is None:
        return 1 << 63
    if free < RESERVE_BYTES:
        raise StoreFull(
            f"{path}: {free} bytes are free on its disk and {RESERVE_BYTES} are kept in reserve; "
            "free some space (reading goes on)"
        )
    return free
