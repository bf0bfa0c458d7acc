"""A raw timm model: it is wrapped, and what is saved loads in transformers and in timm.

python examples/by_feature/timm_model.py
"""

import timm
import torch
from stand_ins import arguments, images
from transformers import AutoModelForImageClassification

from hf_diversity import DiversityConfig, DiversityTrainer


def main() -> list[torch.Tensor]:
    """Train and save; print that both libraries load the same model."""
    data = images("train", 320)
    trainer = DiversityTrainer(
        model=timm.create_model("test_resnet", num_classes=10, in_chans=1),
        args=arguments("timm_model"),
        train_dataset=data,
        diversity=DiversityConfig(layers=["layer4", "layer3"]),  # timm's own names
    )
    trainer.train()
    trainer.save_model()
    folder = trainer.args.output_dir
    by_transformers = AutoModelForImageClassification.from_pretrained(folder).eval()
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    batch = torch.stack([row["pixel_values"] for row in data[:8]])
    with torch.no_grad():
        logits = [trainer.model.eval()(batch).logits, by_transformers(batch).logits, by_timm(batch)]
    print("largest difference of the logits:", max((other - logits[0]).abs().max().item() for other in logits[1:]))
    return logits


if __name__ == "__main__":
    main()
