"""One pass over a data set in evaluation mode: the rows of the captured layers, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import find_batch_size

from .capture import ActivationCapture
from .config import DiversityConfig
from .distributed import real_batch_size
from .layers import find_layers
from .masks import position_masks
from .modes import modes_put_back
from .samples import rows_by_layer


def iterate_rows(
    model: nn.Module,
    dataloader: Iterable[Mapping[str, Any]],
    diversity: DiversityConfig,
    on_batch: Callable[[Mapping[str, Any], Any], None] | None = None,
    accelerator: Any = None,
) -> Iterator[dict[str, Tensor]]:
    """Run the model over a data loader and give the rows of its layers.

    Args:
        model: any model whose layers `find_layers` resolves; left in the mode it was in.
        dataloader: gives batches as dicts of the model's inputs; tensors are moved to the model's device.
        diversity: its `layers`, `samples`, `unit_axis`, `max_samples` and `drop_prefix_tokens` matter.
        on_batch: called with each batch and what the model gave for it.
        accelerator: that prepared the data loader; the examples that it repeats to fill the last batch do not count.

    Yields:
        (N, D) activations by layer for each batch, without padding.
    """
    targets = find_layers(model, diversity.layers, diversity.drop_prefix_tokens)
    capture = ActivationCapture(targets, model)
    device = next(model.parameters()).device
    with modes_put_back(model):
        model.eval()
        for batch in dataloader:
            if not isinstance(batch, Mapping):
                raise TypeError(
                    f"the data loader gave a {type(batch).__name__}: batches must be dicts of the model's inputs, say "
                    '{"pixel_values": images}'
                )
            batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            with torch.no_grad():
                with capture.armed() as store:
                    outputs = model(**batch)
                activations = capture.take(store, training=False)
                masks = position_masks(batch, targets, model)
                rows = rows_by_layer(activations, targets, diversity, masks, _real_share(accelerator, batch))
            if on_batch is not None:
                on_batch(batch, outputs)
            yield rows


def _real_share(accelerator: Any, batch: Mapping[str, Any]) -> tuple[int, int] | None:
    size = None if accelerator is None else find_batch_size(batch)
    return None if size is None else (real_batch_size(accelerator, size), size)
