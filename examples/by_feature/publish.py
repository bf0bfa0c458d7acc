"""What a push to the Hub would send, by a dry run, and a finished run loaded back.

python examples/by_feature/publish.py
"""

import timm
from stand_ins import arguments, images

from hf_diversity import DiversityConfig, DiversityTrainer, Run, load_run
from hf_diversity.cli import main as hf_diversity


def main() -> Run:
    """Train, write model and card, list what would leave, and load the run."""
    trainer = DiversityTrainer(
        model=timm.create_model("test_resnet", num_classes=10, in_chans=1),
        args=arguments("publish"),
        train_dataset=images("train", 320),
        diversity=DiversityConfig(diversity_weight=0.1),
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(model_name="A small ResNet")
    folder = trainer.args.output_dir
    hf_diversity(["push", folder, "me/model", "--dry-run"])  # as typed in a shell: hf-diversity push ...
    run = load_run(folder)  # or a Hub id
    print(type(run.model).__name__, run.diversity)
    return run


if __name__ == "__main__":
    main()
