"""What every test gets: the CPU with one torch thread, no network, fixed seeds, reproducible examples."""

from __future__ import annotations

import os
import random
import signal

# Before the libraries that read them are imported.
for _variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[_variable] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ["WANDB_MODE"] = "offline"

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.coverage_table import CoverageTable  # noqa: E402
from tests.skips import SkipReport  # noqa: E402

torch.set_num_threads(1)
# A shell starts what runs in the background with interrupts ignored, and processes of tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("rxrl", deadline=None, derandomize=True)
settings.load_profile("rxrl")


def pytest_configure(config: pytest.Config) -> None:
    # Processes of xdist report to the one that started them.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipReport(config))
        if config.getoption("cov_source", None):
            config.pluginmanager.register(CoverageTable())


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
