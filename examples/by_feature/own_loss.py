"""A loss of your own by `compute_loss_func`: the regulariser is added to it, whatever it is.

python examples/by_feature/own_loss.py
"""

from stand_ins import arguments, images, vision_transformer
from torch.nn.functional import cross_entropy

from hf_diversity import DiversityConfig, DiversityTrainer


def smoothed(outputs, labels, num_items_in_batch=None):
    """Cross entropy with label smoothing; a sum over the labels of all micro-batches, divided by their number."""
    loss = cross_entropy(outputs["logits"], labels, label_smoothing=0.1, reduction="sum")
    return loss / (num_items_in_batch if num_items_in_batch is not None else len(labels))


def main() -> DiversityTrainer:
    """Train, and print the parts of the last loss."""
    trainer = DiversityTrainer(
        model=vision_transformer(),
        args=arguments("own_loss"),
        train_dataset=images("train", 320),
        compute_loss_func=smoothed,
        diversity=DiversityConfig(diversity_weight=1.0),
    )
    trainer.train()
    last = [record for record in trainer.state.log_history if "task_loss" in record][-1]
    print({name: last[name] for name in ("loss", "task_loss", "diversity")})
    return trainer


if __name__ == "__main__":
    main()
