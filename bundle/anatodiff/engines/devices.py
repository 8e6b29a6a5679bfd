"""Where a workflow computes: the device, the precision, and the processes of `torchrun`."""

from __future__ import annotations

import logging
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from anatodiff.engines.workflow import OptionError

logger = logging.getLogger(__name__)

LONGEST_WAIT = timedelta(days=1)
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def computes_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies matrices faster in bfloat16 than in float32.

    Args:
        device: CPU or GPU.

    Returns:
        True for CPUs with AVX-512 BF16 or AMX and GPUs with bfloat16 units.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Asked of torch: the processor's flags alone do not say whether its libraries use them.
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_precision(amp: str | None, device: torch.device) -> torch.dtype | None:
    """Turn the option `amp` into what the network computes in.

    Args:
        amp: "bf16", "fp16" (which needs a GPU and scales the loss), "auto" for bf16 where the device computes faster in
            it, or None for float32.
        device: where the network is.

    Returns:
        the precision.

    Raises:
        OptionError: it is not known or cannot be used here.
    """
    if amp is None:
        return None
    if amp == "auto":
        amp = "bf16" if computes_bf16(device) else None
        logger.info("amp 'auto': the network computes in %s on this %s", amp or "float32", device.type)
        return None if amp is None else PRECISIONS[amp]
    if amp not in PRECISIONS:
        raise OptionError(f"amp must be one of {('auto', *PRECISIONS)} or null, got {amp!r}")
    if amp == "fp16" and device.type != "cuda":
        raise OptionError(f"amp 'fp16' needs a GPU, the device is {device}; try 'bf16'")
    return PRECISIONS[amp]


def start_processes(name: str = "auto") -> torch.device:
    """Join the processes that `torchrun` has started, one per GPU, or on the CPU where there is none.

    Args:
        name: "auto", or "cpu" to leave the GPUs alone.

    Returns:
        this process's device.

    Raises:
        OptionError: it was not started by `torchrun`, or there are fewer GPUs than processes.
    """
    if "LOCAL_RANK" not in os.environ:
        raise OptionError("configs/multi_gpu.json is for several processes; start it by torchrun --nproc_per_node 2")
    device, rank = torch.device("cpu"), int(os.environ["LOCAL_RANK"])
    if name != "cpu" and torch.cuda.is_available():
        if rank >= torch.cuda.device_count():
            raise OptionError(f"process {rank} has no GPU, there are {torch.cuda.device_count()}; start fewer")
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # The others wait while the main process reads a large folder or samples at the end.
        dist.init_process_group("gloo" if device.type == "cpu" else "nccl", timeout=LONGEST_WAIT)
    return device


def stop_processes() -> None:
    """Leave the processes of `start_processes`, all together."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def choose_device(name: str = "auto") -> torch.device:
    """Turn the option `device` into a device.

    Args:
        name: "auto" takes a GPU where there is one; else a name of torch's, e.g. "cpu" or "cuda:1".

    Returns:
        the device.

    Raises:
        OptionError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try 'auto'") from error
    return torch.device(name)
