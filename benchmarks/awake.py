"""Processors that stay awake while we measure, so that the figures are the code's, not the host's.

A processor that has nothing to do goes to sleep, and whoever waits for the disk pays for its waking
up: on a virtual machine whose host must wake it, a bare commit of LMDB takes 0.35 ms instead of
0.23 ms, and the Python behind it runs with cold caches. Where agents run in production there is
always something to do. So a process of the lowest class (SCHED_IDLE) runs on each processor,
which gives way as soon as anybody else wants it. It holds for us, the peers and the limits alike.
Under a quota of processor time they would use that up: run with --as-is there.

Each has a session of its own, which Linux schedules as one (autogroup), at the lowest priority:
within ours it would be of the lowest class for us alone. The kernel's own threads, which tell us
what the disk has done, waited for it in one run of twenty, 11 ms for a commit. It takes 1.5 % of a
busy processor.

Invariants: these processes end with the block, or with whoever began it, whatever happens to that.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

IDLER = """
import os, sys
parent, processor = map(int, sys.argv[1:])
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, [processor])
if os.path.exists("/proc/self/autogroup"):
    with open("/proc/self/autogroup", "w") as group:
        group.write("19")
print("awake", flush=True)
while os.getppid() == parent:
    os.sched_yield()  # where the kernel looks whether somebody else is to run
    for _ in range(100):
        pass
"""


def possible() -> bool:
    """Return True where the system has a class of processes below all others."""
    return hasattr(os, "SCHED_IDLE") and hasattr(os, "sched_setaffinity")


@contextmanager
def awake() -> Iterator[list[int]]:
    """Keep every processor that this process may use awake inside the block.

    Yields the ids of the processes that do: none where the system does not let them.
    """
    ids = list[int]()
    with ExitStack() as stack:
        for processor in os.sched_getaffinity(0) if possible() else ():
            command = [sys.executable, "-c", IDLER, str(os.getpid()), str(processor)]
            idler = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
            stack.callback(_end, idler)
            assert idler.stdout is not None
            ids += [idler.pid] if idler.stdout.readline() else []
        yield ids


def _end(idler: subprocess.Popen[str]) -> None:
    idler.kill()
    idler.communicate()
