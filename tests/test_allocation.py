"""Freed memory stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

from tests import skips

pytestmark = pytest.mark.slow

SCRIPT = """
import resource, sys
from rxrl.allocation import keep_freed_memory
print(keep_freed_memory())
import torch
torch.set_num_threads(1)
inputs, weight = torch.ones(4096, 128), torch.ones(128, 6000)

def work():
    hidden = inputs @ weight
    return (torch.nn.functional.silu(hidden) * hidden).sum()

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[bool, int]:
    """Whether the setting was made, and pages that the system had to hand out for tensors of 98 MB, ten times three of them."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=clean | environment, capture_output=True, text=True, check=True)
    made, pages = done.stdout.split()
    return made == "True", int(pages)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason=f"{skips.MACHINE}: glibc")
def test_freed_memory_is_used_again_without_asking_the_system():
    made, pages = faults()
    assert made
    assert pages < faults(MALLOC_ARENA_TEST="2")[1] / 2


def test_an_allocator_that_the_environment_sets_up_is_left_alone():
    assert faults(MALLOC_TRIM_THRESHOLD_="131072")[0] is False
