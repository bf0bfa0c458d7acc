"""Put `DiversityTrainer` where you have `Trainer`: the log then shows the parts of the loss.

python examples/by_feature/basic.py
"""

from stand_ins import images, vision_transformer
from transformers import TrainingArguments

from hf_diversity import DiversityConfig, DiversityTrainer


def main() -> DiversityTrainer:
    """Train, evaluate, and print both."""
    trainer = DiversityTrainer(  # was: Trainer
        model=vision_transformer(),
        args=TrainingArguments(
            "outputs/examples/basic", num_train_epochs=2, per_device_train_batch_size=40, learning_rate=3e-3,
            logging_steps=5, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        ),
        train_dataset=images("train", 400),
        eval_dataset=images("test", 100),
        diversity=DiversityConfig(measure="direct", diversity_weight=1.0, activation_weight=0.001),  # new
    )  # fmt: skip
    trainer.train()
    last = [record for record in trainer.state.log_history if "task_loss" in record][-1]
    print({name: last[name] for name in ("loss", "task_loss", "diversity", "activation_norm", "gamma")})
    print(trainer.evaluate())
    return trainer


if __name__ == "__main__":
    main()
