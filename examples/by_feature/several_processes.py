"""Two processes: the similarity is over the samples of both, so the loss curve is that of one.

accelerate launch --config_file recipes/accelerate/cpu_2.yaml examples/by_feature/several_processes.py
"""

from stand_ins import arguments, images, vision_transformer

from hf_diversity import DiversityConfig, DiversityTrainer


def main() -> list[float]:
    """Train with a global batch of 32, and print the loss of each step."""
    settings = arguments("several_processes", max_steps=5, logging_steps=1)
    settings.per_device_train_batch_size = 32 // settings.world_size
    trainer = DiversityTrainer(
        model=vision_transformer(),
        args=settings,
        train_dataset=images("train", 160),
        diversity=DiversityConfig(diversity_weight=1.0, sync="global"),  # "local": over the samples of each process
    )
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "task_loss" in record]
    trainer.accelerator.print(f"{settings.world_size} processes:", *(f"{loss:.6f}" for loss in losses))
    return losses


if __name__ == "__main__":
    main()
