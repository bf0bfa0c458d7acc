"""Three callbacks: the gap between training and test, what layers look like, and a schedule of the weights.

python examples/by_feature/callbacks.py
"""

from stand_ins import arguments, images, vision_transformer

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.callbacks import DiversityScheduleCallback, GeneralizationGapCallback, LayerDiagnosticsCallback


def main() -> DiversityTrainer:
    """Train with evaluations in between, and print what the log gained."""
    trainer = DiversityTrainer(
        model=vision_transformer(),
        args=arguments("callbacks", max_steps=20, eval_strategy="steps", eval_steps=10),
        train_dataset=images("train", 320),
        eval_dataset=images("test", 100),
        diversity=DiversityConfig(diversity_weight=1.0),
        callbacks=[
            GeneralizationGapCallback(train_samples=100),  # gap_loss at each evaluation; positive: worse
            LayerDiagnosticsCallback(samples=64),  # layers/<layer>/<quantity>, for the layers of the regulariser
            DiversityScheduleCallback(warmup=0.5, decay="cosine"),  # both weights rise for half of training, then fall
        ],
    )
    trainer.train()
    for record in trainer.state.log_history:
        for name in ("gap_loss", "layers/classifier/effective_rank", "diversity_scale"):
            if name in record:
                print(f"step {record['step']}: {name} {record[name]:.4g}")
    return trainer


if __name__ == "__main__":
    main()
