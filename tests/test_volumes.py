"""Volumes: those of a network are refused, and a full one stops writers and nobody else."""

import os
import subprocess
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from filled import LINE, fill, works

from eventstore import EventStore, StoreFull, StoreUnavailable, limits
from eventstore.audit.verify import verify, verify_directory
from eventstore.care.backup import backup, restore
from eventstore.place.volume import ALLOWED, INSIST, Mount, check_mount, free_bytes, mount_in
from projections import Views

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/team\\040share rw,relatime - nfs4 server:/export rw,vers=4.2
31 22 0:41 / /home/me/remote rw - fuse.sshfs me@host: rw
32 22 0:42 / /mnt/old rw - nfs server:/old rw
33 22 8:2 / /mnt/old rw - xfs /dev/sdb1 rw
34 30 0:43 / /mnt/team\\040share/fast rw - tmpfs tmpfs rw
a line that says nothing
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/history", "ext4"),
        ("/mnt/team share/history", "nfs4"),
        ("/mnt/team shares/history", "ext4"),
        ("/mnt/team share/fast/history", "tmpfs"),
        ("/home/me/remote", "fuse.sshfs"),
        ("/mnt/old/history", "xfs"),
    ],
)
def test_network_file_systems_are_refused(path, kind, monkeypatch):
    """The innermost and newest mount decides; a network's is refused unless one insists."""
    mount = mount_in(MOUNTS, path)
    assert mount is not None and mount.kind == kind
    if kind in ("ext4", "tmpfs", "xfs"):
        check_mount(Path(path), mount)
        return
    with pytest.raises(StoreUnavailable, match=rf"network file system \({kind} at .*{INSIST}"):
        check_mount(Path(path), mount)
    monkeypatch.setenv(INSIST, ALLOWED)
    check_mount(Path(path), mount)


def test_an_unknown_mount_refuses_nothing():
    """Where the system does not tell, a store is opened."""
    assert mount_in("", "/srv") is None
    check_mount(Path("/srv"), None)
    check_mount(Path("/srv"), Mount("/", "overlay"))


@contextmanager
def small_disk(place: Path, size: int):
    """Mount a disk of so many bytes in memory, or skip the test where that is not allowed."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    if not works(command):
        pytest.skip("a disk in memory can't be mounted here: needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def append_for_ever(store: EventStore) -> None:
    """Append what can't be compressed."""
    while True:
        store.append("s", {"role": "tool", "content": os.urandom(20_000).hex()})


def test_a_full_disk_stops_writers_and_no_reader(tmp_path):
    """Writing ends with StoreFull before the disk does, reads go on; with room it goes on."""
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        place = disk / "h"
        with fill(place) as store:
            with pytest.raises(StoreFull, match="kept in reserve"):
                append_for_ever(store)
            done = store.version("s")
            assert done > 5
            assert free_bytes(disk) >= limits.RESERVE_BYTES // 2
            assert len(list(store.events("s"))) == done + 1
            assert verify(store).sound
        closing_gave = free_bytes(disk) - limits.RESERVE_BYTES // 2
        (disk / "what closing gave back").write_bytes(bytes(closing_gave))
        with pytest.raises(StoreFull, match="reading goes on"):
            EventStore.open(place)
        with EventStore.open(place, read_only=True) as store:
            assert store.version("s") == done
        subprocess.run(["mount", "-o", f"remount,size={32 << 20}", str(disk)], check=True)
        with fill(place) as store:
            assert store.version("s") == done + 5
            assert verify(store).sound


def test_a_full_disk_is_no_damage(tmp_path):
    """A sound backup on a disk without any room is not called damaged: the error says what is."""
    with fill(tmp_path / "h") as store, small_disk(tmp_path / "disk", 8 << 20) as disk:
        copy = disk / "copy"
        backup(store, copy)
        (disk / "rest").write_bytes(bytes(free_bytes(disk)))
        for look in (verify_directory, partial(restore, destination=tmp_path / "made")):
            with pytest.raises(StoreFull, match="no room for a lock file; free some space"):
                look(copy)
        with pytest.raises(StoreFull, match=f"{disk}.*the disk refused the write"):
            backup(store, disk / "another")
        (disk / "rest").unlink()
        assert verify_directory(copy).sound


def test_views_are_read_on_a_full_disk(tmp_path):
    """Views that can't be written any more, new ones too, answer all the same, out of memory."""
    with small_disk(tmp_path / "disk", 8 << 20) as disk, fill(disk / "h") as store:
        views = Views(store)
        before = views.sessions().rows
        store.append("s", LINE)
        (disk / "rest").write_bytes(bytes(free_bytes(disk)))
        for each in (views, Views(store)):
            rows = each.sessions().rows
            assert [row.messages for row in rows] == [row.messages + 1 for row in before]
            assert each.statistics().messages == 6
            assert list(each.tree("s").nodes) == ["s"]
        with pytest.raises(StoreFull):
            store.append("s", LINE)
        (disk / "rest").unlink()
        store.append("s", LINE)
        assert views.statistics().messages == 7


def test_a_full_disk_frees_the_callers_it_stopped(tmp_path):
    """An open store goes on by itself once there is room again, with the same keys."""
    with small_disk(tmp_path / "disk", 8 << 20) as disk, fill(disk / "h") as store:
        fallow = disk / "something else"
        fallow.write_bytes(bytes(free_bytes(disk) - limits.RESERVE_BYTES // 2))
        with pytest.raises(StoreFull):
            store.append("s", LINE, key="k")
        fallow.unlink()
        assert not store.append("s", LINE, key="k").duplicate
        assert store.append("s", LINE, key="k").duplicate
        assert store.version("s") == 6
