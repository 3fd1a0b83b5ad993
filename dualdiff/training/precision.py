"""The precision of a run: chosen when the run begins, and kept when it resumes, on whatever machine."""

import logging
from pathlib import Path

import torch
from accelerate import Accelerator

from dualdiff.core.device import cpu_bfloat16, has_fast_bfloat16, name_of_precision, select_precision
from dualdiff.training.distributed import of_the_first
from dualdiff.training.run_folder import read_plan

log = logging.getLogger(__name__)


def precision_of_run(folder: Path, name: str, accelerator: Accelerator) -> torch.dtype:
    """Return the type that the networks of the run in `folder` compute in; the first process decides for all.

    A precision that the settings name is taken as it is. "auto" means the precision that the run began with, and
    where there is no run yet, the one that is fast on this device.

    Raises:
        DataError: the plan of the run is broken.
    """
    device = accelerator.device
    began = _began_with(folder, device)
    if name == "auto" and began == "bfloat16" and not has_fast_bfloat16(device):
        log.warning(
            "%s began in bfloat16 and keeps it, though this machine (%s) computes it slowly: "
            'set project.precision = "float32" to change it',
            folder,
            device.type,
        )
    dtype = select_precision(began if name == "auto" and began else name, device)
    return torch.bfloat16 if of_the_first(accelerator, int(dtype == torch.bfloat16)) else torch.float32


def _began_with(folder: Path, device: torch.device) -> str:
    """Return the precision that a run began with; empty where there is no run.

    Runs of versions that did not store it were in float32 on CPUs without AMX.
    """
    stored = str(read_plan(folder).get("precision", ""))
    if stored or not (folder / "state.json").exists():
        return stored
    had_avx512_only = device.type == "cpu" and cpu_bfloat16() == "avx512_bf16"
    return "float32" if had_avx512_only else name_of_precision(select_precision("auto", device))
