"""Gradient accumulation leaves the strength of the regulariser alone, and bf16 autocast works as with `Trainer`.

python examples/by_feature/accumulation_and_precision.py
"""

from stand_ins import arguments, images, vision_transformer

from hf_diversity import DiversityConfig, DiversityTrainer

CHOICES = {
    "one batch of 64": {"per_device_train_batch_size": 64},
    "4 micro-batches of 16": {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4},
    "the same in bf16": {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4, "bf16": True},
}


def main() -> dict[str, list[float]]:
    """Train three times from the same weights, and print the loss of each step.

    The first two differ by rounding alone: `direct` and the norm term are means over samples. (Those of a matrix,
    `logdet` say, are that of each micro-batch.)
    """
    losses = {}
    for name, changes in CHOICES.items():
        trainer = DiversityTrainer(
            model=vision_transformer(),
            args=arguments("accumulation", max_steps=4, logging_steps=1, **changes),
            train_dataset=images("train", 256),
            diversity=DiversityConfig(diversity_weight=1.0, gamma=2.0, activation_weight=0.001),
        )  # fmt: skip
        trainer.train()
        losses[name] = [record["loss"] for record in trainer.state.log_history if "task_loss" in record]
        print(f"{name:22}", *(f"{loss:.5f}" for loss in losses[name]))
    return losses


if __name__ == "__main__":
    main()
