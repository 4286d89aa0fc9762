"""The walk over all pages of LMDB files, which may kill the process that does it.

Invariants: this file needs nothing but lmdb: structure.py runs it as a program, and a process that
has nothing else to load is there in 15 ms, where typing, json and pathlib would make it 34.
"""

import sys

import lmdb
from lmdb.verify import VerifyError, verify


def walked(path: str) -> list[str]:
    """Return the problems of one environment; no damage of its pages is touched through LMDB.

    The walk over one in use is made on pages that a reader's slot pins, so that what others
    write meanwhile is no damage.
    """
    environment = pinned = None
    try:
        environment = lmdb.open(path, readonly=True, create=False)
        pinned = environment.begin()  # its slot keeps all pages of this moment and later
    except lmdb.Error:
        pinned = None  # nobody can be writing to what can't be opened
    try:
        found: list[str] = verify(path, subdir=True)  # type: ignore[no-untyped-call]
    except (VerifyError, OSError) as error:
        found = [str(error)]
    if pinned is not None:
        pinned.abort()
    if environment is not None:
        environment.close()
    return found


if __name__ == "__main__":
    sys.stdout.write(ascii([walked(each) for each in sys.argv[1:]]))
