"""What a process sets up for itself, seen from outside: in processes of their own, as it holds for all of one."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
{first}
import numpy as np
for _ in range(3):
    np.ones(3 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    big = [np.ones(3 << 20) for _ in range(4)]
    del big
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
SETTLE = "from dualdiff.core.process import settle; settle()"


def run(code: str, **variables: str) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GOMP_", "OMP_WAIT_", "MALLOC_", "GLIBC_"))
    }
    return subprocess.run(
        [sys.executable, "-c", code], env={**environment, **variables}, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the GNU C library alone can be told")
def test_memory_is_kept_for_the_next_step():
    plain, settled = (int(run(FAULTS.format(first=first))) for first in ("", SETTLE))
    assert settled < plain / 4  # 24 MiB arrays, made twenty times over, are new pages each time or only once


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the GNU C library alone can be told")
@pytest.mark.parametrize("said", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}])
def test_the_users_own_memory_settings_stand(said):
    kept = int(run(FAULTS.format(first=SETTLE), **said))
    assert kept > 4 * int(run(FAULTS.format(first=SETTLE)))


def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise():
    show = f"{SETTLE}; import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert run(show) == "2000"
    assert run(show, OMP_WAIT_POLICY="ACTIVE") == "None"
    assert run(show, GOMP_SPINCOUNT="7") == "7"


def test_every_command_settles_its_process():
    code = """
import os, sys
from dualdiff import cli
sys.argv = ["dualdiff", "--version"]
try:
    cli.main()
except SystemExit:
    print(os.environ.get("GOMP_SPINCOUNT"))
"""
    assert run(code).splitlines()[-1] == "2000"
