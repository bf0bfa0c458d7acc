"""A measure of your own, registered under a name: a mean over samples, and what J makes of it.

python examples/by_feature/own_measure.py
"""

import torch
from stand_ins import arguments, images, vision_transformer

from hf_diversity import DiversityConfig, DiversityTrainer, register_measure


@register_measure("cosine")
class Cosine:
    """The mean squared cosine of the angle between two units, each a vector of its activations over the samples."""

    def statistic(self, activations):
        """(1/N) A^T A, of activations A (N, D)."""
        return activations.T @ activations / len(activations)

    def value(self, statistic):
        """J, of the products averaged over the samples of all processes."""
        norms = statistic.diagonal().clamp(min=1e-12).sqrt()  # a dead unit: sqrt has no finite slope at 0
        cosines = statistic / norms / norms[:, None]
        return (cosines - torch.diag(cosines.diagonal())).square().sum() / (len(norms) * (len(norms) - 1))


def main(diversity_weight: float = 1.0) -> dict[str, float]:
    """Train with it, and print it on test images before and after."""
    trainer = DiversityTrainer(
        model=vision_transformer(),
        args=arguments("own_measure", max_steps=40),
        train_dataset=images("train", 320),
        eval_dataset=images("test", 100),
        diversity=DiversityConfig(measure="cosine", diversity_weight=diversity_weight),
    )
    found = {"before": trainer.evaluate()["eval_diversity"]}
    trainer.train()
    found["after"] = trainer.evaluate()["eval_diversity"]
    print("mean squared cosine:", found)
    return found


if __name__ == "__main__":
    main()
