"""Whether Triton serves a tensor; the choice is logged once."""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def triton_serves(activations: Tensor) -> bool:
    """Whether the Triton kernels take these activations: on CUDA, if Triton (it comes with torch) can be imported."""
    return activations.device.type == "cuda" and _triton_works(activations.device)


@functools.cache
def _triton_works(device: torch.device) -> bool:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        logger.warning(
            "diversity on %s by torch operations, which take some 10 times longer: Triton cannot be imported (%s); "
            "type pip install triton",
            device,
            error,
        )
        return False
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
        logger.warning("diversity on %s by torch operations: Triton needs compute capability 7.0 or newer", device)
        return False
    logger.info("diversity on %s by Triton kernels", device)
    return True
