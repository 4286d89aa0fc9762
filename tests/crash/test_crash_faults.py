"""Calls of the system that fail: a clear error, nothing acknowledged lost, and work goes on."""

import shutil
from pathlib import Path

import pytest
from faults import APPENDS, Fault, Sufferer, Work, append_some, care_for
from scenarios import line
from tools import traced

from eventstore import EventStore
from eventstore.audit.verify import verify

CALLS = ("pwrite64", "writev", "fdatasync", "openat", "mmap", "pread64", "mkdir", "ftruncate")
CALLS_OF_CREATION = ("write", "fsync", "rename")
CALLS_OF_CARE = ("fsync", "rename", "unlink")
ERRORS = ("error=EIO", "error=ENOSPC")
SHORT = "retval=100"
"""A write that says to have taken only 100 bytes; LMDB takes that for a failed one."""

CALLS_FAST, CALLS_LONG = 2, 10_000
"""How many calls of each kind are failed, one in each run."""

SIDE_BY_SIDE = 2
"""Runs that go on at once."""

FAULTS = [
    *((call, how) for call in (*CALLS, *CALLS_OF_CREATION) for how in ERRORS),
    ("pwrite64", SHORT),
    ("writev", SHORT),
]


def made(root: Path) -> None:
    """Make a store with a few messages, for the work to go on with."""
    with EventStore.open(root / "h", actor="user:0") as store:
        store.create("a", key="create")
        for number in range(4):
            store.append("a", line(number))


def check(root: Path, told: list[str]) -> None:
    """Assert that a store opens sound, with all that was told and no more than was asked for."""
    with EventStore.open(root / "h") as store:
        sizes = [int(each.split()[1]) for each in told if each.startswith("size")]
        assert store.head().size >= max(sizes, default=0)
        keys = [each.key for each in store.all() if each.key and each.key.startswith("k")]
        assert keys == [f"k{number}" for number in range(len(keys))]
        assert verify(store, deep=True).findings == []
        if not store.exists("a"):
            store.create("a")
        store.append("a", {"content": "still of use"})


def run(base: Path, faults: list[Fault], *, existing: bool, work: Work = append_some) -> int:
    """Do the work under each fault and check it; return how many of the calls there were."""
    roots = [base / str(number) for number in range(len(faults))]
    for root in roots:
        root.mkdir()
        if existing:
            made(root)
    started = [Sufferer(work, *each) for each in zip(roots, faults, strict=True)]
    outcomes = [each.outcome() for each in started]
    for root, fault, (told, _) in zip(roots, faults, outcomes, strict=True):
        name = f"{fault} {'on a store' if existing else 'in creation'}: {told}"
        assert not [each for each in told if each.startswith(("foreign", "died"))], name
        if not fault.lasting and work is append_some:
            assert sum(each.startswith("size") for each in told) == APPENDS, name
        check(root, told)
        shutil.rmtree(root)
    return sum(hit for _, hit in outcomes)


@pytest.mark.parametrize("calls", [CALLS_FAST, pytest.param(CALLS_LONG, marks=pytest.mark.long)])
@pytest.mark.parametrize(("call", "how"), FAULTS)
def test_a_failed_call_costs_nothing(tmp_path, tally, calls, call, how):
    """Whichever call fails once, what was asked for is there after a retry in the same process."""
    traced()
    # Before there is a store, files have no names yet by which calls about them could be told.
    for existing in [True] if call in ("openat", "mmap") else [True, False]:
        for first in range(1, calls + 1, SIDE_BY_SIDE):
            faults = [Fault(call, how, first + each) for each in range(SIDE_BY_SIDE)]
            hits = run(tmp_path, faults, existing=existing)
            tally("failed calls", hits)
            if hits < len(faults):
                break


@pytest.mark.parametrize(
    ("call", "calls"),
    [
        *((call, CALLS_FAST) for call in CALLS_OF_CARE),
        *(
            pytest.param(call, CALLS_LONG, marks=pytest.mark.long)
            for call in (*CALLS, *CALLS_OF_CARE)
        ),
    ],
)
def test_a_failed_call_in_a_backup_or_compaction_costs_nothing(tmp_path, tally, call, calls):
    """What cares for a store is done or refused by an error of the tree, and the store is sound."""
    traced()
    for first in range(1, calls + 1, SIDE_BY_SIDE):
        faults = [Fault(call, ERRORS[0], first + each) for each in range(SIDE_BY_SIDE)]
        hits = run(tmp_path, faults, existing=True, work=care_for)
        tally("failed calls of care", hits)
        if hits < len(faults):
            break


@pytest.mark.parametrize("how", ERRORS)
@pytest.mark.parametrize("call", ["pwrite64", "writev", "fdatasync"])
def test_a_disk_that_goes_on_failing_is_told_of(tmp_path, tally, call, how):
    """Every append is refused or kept while the disk fails, and the store is sound after that."""
    traced()
    faults = [Fault(call, how, first, lasting=True) for first in (1, 3)]
    assert run(tmp_path, faults, existing=True) == len(faults)
    tally("failing disks", len(faults))
