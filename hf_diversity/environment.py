"""What a bug report needs to know of a machine, without names of users or folders."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from .versions import installed_versions

REQUIRED = (
    "torch", "transformers", "accelerate", "datasets", "evaluate", "timm", "huggingface_hub", "safetensors", "numpy",
)  # fmt: skip
OPTIONAL = (
    "matplotlib", "scipy", "statsmodels", "peft", "trl", "sentence-transformers", "optuna", "tensorboard", "triton",
    "deepspeed",
)  # fmt: skip
# Those that change what is computed, or how fast, and whose values are numbers or words
VARIABLES = (
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DYNAMO_BACKEND",
)  # fmt: skip


def describe_environment() -> dict[str, Any]:
    """Return versions, platform, processor, accelerators and processes, as JSON can hold them."""
    return {
        "versions": installed_versions(("hf_diversity", *REQUIRED, *OPTIONAL), absent="not installed"),
        "platform": platform.platform(),
        "cpu": {
            "machine": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
        "gpus": _gpus(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "mps": torch.backends.mps.is_available(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def as_text(environment: dict[str, Any]) -> str:
    """The same as lines of name and value."""
    cpu = environment["cpu"]
    gpus = [f"{gpu['name']}, {gpu['memory_gib']} GiB, capability {gpu['capability']}" for gpu in environment["gpus"]]
    lines = {
        **environment["versions"],
        "platform": environment["platform"],
        "cpu": f"{cpu['machine']} ({cpu['capability']}), {cpu['cores']} cores, {cpu['torch_threads']} torch threads",
        "gpu": "; ".join(gpus) or ("Apple" if environment["mps"] else "none"),
        "torch built for": f"CUDA {environment['cuda']}" if environment["cuda"] else f"HIP {environment['hip']}"
        if environment["hip"] else "CPU",
        "processes": environment["processes"],
        **{name: value or "(empty)" for name, value in environment["variables"].items()},
    }  # fmt: skip
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1), "capability": f"{gpu.major}.{gpu.minor}"}
        for gpu in found
    ]
