"""Train an image classifier with within-layer diversity, or without it for comparison.

    accelerate launch recipes/image_classification.py --config recipes/configs/demo.yaml [--field value ...]

A configuration file holds lines of `field: value`; what is typed on the command line wins. `--help` lists every field.
"""

from __future__ import annotations

import functools
from typing import Any

from common.arguments import RunArguments
from common.corruptions import corrupted
from common.data import Split, Splits, load_splits
from common.image_models import build_image_model
from common.images import ImageArguments, ImageModelArguments, augmentation, image_column
from common.recipe import Prepared, run_from_command_line, run_recipe
from common.training import accuracy_of_choices
from transformers import TrainingArguments
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from hf_diversity import DiversityConfig, cifar_models, small_models
from hf_diversity.cards.usage import image_usage
from hf_diversity.data.examples import ImageDataset
from hf_diversity.publishing.commit import HERE

TYPES = (ImageModelArguments, ImageArguments, RunArguments, DiversityConfig, TrainingArguments)

REGISTRATION = "import {module}  # noqa: F401  registers the architecture in timm\n"


def prepare(model_arguments: ImageModelArguments, data_arguments: ImageArguments, splits: Splits) -> Prepared:
    """Build the classifier and its inputs.

    Raises:
        ValueError: there is no such column or model.
    """
    column, test_column = (image_column(split, data_arguments) for split in (splits.train, splits.test))
    built = build_image_model(model_arguments, data_arguments, splits.label_names, splits.train, column)

    def inputs(split: Split, change: Any = None) -> ImageDataset:
        return ImageDataset(split, image_column(split, data_arguments), built.mode, built.processor, change)

    change = augmentation(data_arguments)
    # timm's processor is saved within the model's configuration, and warns when it is asked to save itself.
    saves_itself = not isinstance(built.processor, TimmWrapperImageProcessor)
    architecture = getattr(built.model.config, "architecture", None)
    own = [module.__name__ for module in (cifar_models, small_models) if architecture in module.ARCHITECTURES]
    return Prepared(
        task="image-classification",
        model=built.model,
        library="timm" if built.model.config.model_type == "timm_wrapper" else "transformers",
        pretrained=model_arguments.pretrained or model_arguments.weights is not None,
        sets={"train": inputs(splits.train), "validation": inputs(splits.validation), "test": inputs(splits.test)},
        train_labels=splits.train.labels,
        varied_train=inputs(splits.train, change) if change is not None else None,
        processor=built.processor if saves_itself else None,
        scoring=accuracy_of_choices(),
        corrupted={
            name: inputs(corrupted(splits.test, test_column, built.mode, name, data_arguments.corruption_severity))
            for name in data_arguments.test_corruptions or ()
        },
        usage="".join(REGISTRATION.format(module=name) for name in own) + image_usage(HERE, built.mode),
    )


# Trains and evaluates one image classifier: run(model, data, run, diversity and training arguments, callbacks=None)
run = functools.partial(run_recipe, load_splits, prepare)


def main() -> None:
    """Parse the command line, train, and print the result."""
    run_from_command_line(run, TYPES, __doc__)


if __name__ == "__main__":
    main()
