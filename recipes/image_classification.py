"""Train an image classifier with within-layer diversity, or without it for comparison.

    accelerate launch recipes/image_classification.py --config recipes/configs/demo.yaml [--field value ...]

A configuration file holds lines of `field: value`; what is typed on the command line wins. `--help` lists every field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.arguments import ModelArguments, RunArguments, parse_arguments
from common.data import Split, describe_data, load_splits
from common.image_models import build_image_model
from common.images import ImageArguments, ImageDataset, augmentation, image_column
from common.report import summary
from common.training import accuracy_of_choices, find_checkpoint, train_and_report
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.data import stratified_subset

TYPES = (ModelArguments, ImageArguments, RunArguments, DiversityConfig, TrainingArguments)

USAGE = """
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder = "."  # this folder, or the model's Hub id
processor = AutoImageProcessor.from_pretrained(folder)
model = AutoModelForImageClassification.from_pretrained(folder).eval()
image = Image.open("picture.png").convert("{mode}")
logits = model(**processor(image, return_tensors="pt")).logits
print(model.config.id2label[logits.argmax(-1).item()])
"""


def run(
    model_arguments: ModelArguments,
    data_arguments: ImageArguments,
    run_arguments: RunArguments,
    diversity: DiversityConfig,
    training_arguments: TrainingArguments,
    callbacks: list[TrainerCallback] | None = None,
) -> dict[str, Any]:
    """Train and evaluate one model.

    Args:
        model_arguments: which model.
        data_arguments: which images.
        run_arguments: what to measure and draw.
        diversity: the regulariser; weights 0 for a baseline.
        training_arguments: as for `transformers.Trainer`. `remove_unused_columns` is switched off: the inputs are made
            by this recipe, and Trainer does not know which columns they come from.
        callbacks: take the place of Trainer's own progress bar.

    Returns:
        What `results.json` in `output_dir` holds.

    Raises:
        ValueError: an argument does not fit the data, the model or `output_dir`; nothing has been trained or deleted.
    """
    checkpoint = find_checkpoint(training_arguments, run_arguments)
    training_arguments.remove_unused_columns = False
    with training_arguments.main_process_first(desc="loading the data"):
        splits = load_splits(data_arguments)
    columns = {
        id(split): image_column(split, data_arguments) for split in (splits.train, splits.validation, splits.test)
    }

    # Before the model is built: the seed decides its initial weights.
    set_seed(training_arguments.seed)
    built = build_image_model(
        model_arguments, data_arguments, splits.label_names, splits.train, columns[id(splits.train)]
    )

    def inputs(split: Split, change: Any = None) -> ImageDataset:
        return ImageDataset(
            split, columns.get(id(split), columns[id(splits.train)]), built.mode, built.processor, change
        )

    sets = {"train": inputs(splits.train), "validation": inputs(splits.validation), "test": inputs(splits.test)}
    watched = data_arguments.train_eval_samples or len(splits.validation)
    if watched < len(splits.train):
        watched_train = inputs(
            splits.train.select(stratified_subset(splits.train.labels, watched, data_arguments.split_seed))
        )
    else:
        watched_train = sets["train"]
    change = augmentation(data_arguments)
    # timm's processor is saved within the model's configuration, and warns when it is asked to save itself.
    saves_itself = not isinstance(built.processor, TimmWrapperImageProcessor)
    trainer = DiversityTrainer(
        model=built.model,
        args=training_arguments,
        train_dataset=inputs(splits.train, change) if change is not None else sets["train"],
        eval_dataset={"validation": sets["validation"], "train": watched_train},
        processing_class=built.processor if saves_itself else None,
        diversity=diversity,
        **accuracy_of_choices(),
    )
    return train_and_report(
        trainer,
        sets,
        run=run_arguments,
        diversity=diversity,
        arguments={
            "model": model_arguments,
            "data": data_arguments,
            "diversity": diversity,
            "training": training_arguments,
        },
        task="image-classification",
        model={
            "name": Path(model_arguments.model).name
            if Path(model_arguments.model).is_dir()
            else model_arguments.model,
            "library": "timm" if built.model.config.model_type == "timm_wrapper" else "transformers",
            "pretrained": model_arguments.pretrained or model_arguments.weights is not None,
        },
        data=describe_data(data_arguments, splits),
        usage=USAGE.format(mode=built.mode),
        checkpoint=checkpoint,
        callbacks=callbacks,
    )


def main() -> None:
    """Parse the command line, train, and print the result."""
    results = run(*(arguments := parse_arguments(TYPES, description=__doc__)))
    if arguments[-1].should_save:
        print(f"\n{summary(results)}\nwritten to {arguments[-1].output_dir}")


if __name__ == "__main__":
    main()
