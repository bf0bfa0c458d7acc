"""A trainer of your own: `DiversityMixin` before it adds the regulariser to what its `compute_loss` returns.

python examples/by_feature/own_trainer.py
"""

import torch
from stand_ins import arguments, images, vision_transformer
from transformers import Trainer

from hf_diversity import DiversityConfig, DiversityMixin


class NoisyTrainer(Trainer):
    """Trains on images with noise."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of noisy images while training, of the images as they are in evaluation."""
        if model.training:
            pixels = inputs["pixel_values"]
            inputs = {**inputs, "pixel_values": pixels + 0.1 * torch.randn_like(pixels)}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class DiverseNoisyTrainer(DiversityMixin, NoisyTrainer):
    """The same with the regulariser. The mixin comes first; the other way round is an error."""


def main() -> DiverseNoisyTrainer:
    """Train, and print the parts of the last loss."""
    trainer = DiverseNoisyTrainer(
        model=vision_transformer(),
        args=arguments("own_trainer"),
        train_dataset=images("train", 320),
        diversity=DiversityConfig(diversity_weight=1.0),
    )
    trainer.train()
    last = [record for record in trainer.state.log_history if "task_loss" in record][-1]
    print({name: last[name] for name in ("loss", "task_loss", "diversity")})
    return trainer


if __name__ == "__main__":
    main()
