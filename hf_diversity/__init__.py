"""Within-layer diversity regularisation for the Hugging Face Trainer."""

from .config import DiversityConfig
from .inspection import inspect_layers
from .registry import register_measure
from .runs import Run, load_run
from .trainer import DiversityMixin, DiversitySeq2SeqTrainer, DiversityTrainer

__version__ = "0.1.0.dev0"
__all__ = [
    "DiversityConfig",
    "DiversityMixin",
    "DiversitySeq2SeqTrainer",
    "DiversityTrainer",
    "Run",
    "__version__",
    "inspect_layers",
    "load_run",
    "register_measure",
]
