"""What these tests need of the machine: strace, and leave to use it."""

import subprocess
from functools import cache

import pytest


@cache
def missing() -> str:
    """Return why no process can be traced here, nothing where one can."""
    try:
        command = ["strace", "-e", "trace=none", "true"]
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return "strace is not installed"
    return "" if done.returncode == 0 else f"strace may not trace: {done.stderr.decode().strip()}"


def traced() -> None:
    """Skip the test where no process can be traced."""
    if missing():
        pytest.skip(missing())
