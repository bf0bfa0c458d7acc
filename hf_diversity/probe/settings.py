"""What can be chosen about a probe, in Python and on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import SAMPLES


@dataclass(frozen=True)
class ProbeSettings:
    """What is measured, and on which examples.

    Args are the fields below; `hf-diversity probe` has one option for each.

    Raises:
        ValueError: a value is out of range.
    """

    dataset: str = field(
        metadata={
            "help": "'embedded' (3,000 FashionMNIST images inside hf_diversity), a Hub id, a local folder (in the "
            "Hub's layout, of images by class, or written by save_to_disk) or file (.parquet, .csv, .json, .jsonl)"
        }
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "configuration of a data set that has several, say sst2 of nyu-mll/glue"}
    )
    train_split: str = field(
        default="train", metadata={"help": "split the model was trained on; slices as in train[:80%%] are allowed"}
    )
    test_split: str | None = field(
        default=None, metadata={"help": "split it was not trained on (default: test, or else validation)"}
    )
    layers: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "names or patterns as in DiversityConfig(layers=[...]); '**' is every layer that can be measured "
            "(default: those of the training, or else the last hidden one)"
        },
    )
    samples: str | None = field(
        default=None,
        metadata={
            "help": "how pixels and tokens become samples, see DiversityConfig (default: as in the training, or auto)",
            "choices": SAMPLES,
        },
    )
    max_examples: int = field(
        default=1000,
        metadata={"help": "most examples of each split, drawn at random so that classes keep their share"},
    )
    batch_size: int = field(default=50, metadata={"help": "examples in a batch"})
    image_column: str | None = field(
        default=None, metadata={"help": "column of the image (default: image, img or the only one of images)"}
    )
    text_columns: tuple[str, ...] = field(
        default=(),
        metadata={"help": "column of the text, or both of a pair (default: as in GLUE, or the only one of texts)"},
    )
    label_column: str | None = field(
        default=None, metadata={"help": "column of the class (default: label, labels, ... or the only one of classes)"}
    )
    max_length: int = field(default=128, metadata={"help": "longer texts are cut to these tokens"})
    weights: str | None = field(
        default=None, metadata={"help": "local .safetensors file with the weights of a timm name"}
    )
    processor: str | None = field(
        default=None, metadata={"help": "folder or Hub id of the tokenizer or image processor (default: the model's)"}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "run Python code that the model's repository holds"}
    )
    device: str = field(default="cpu", metadata={"help": "where the model runs, say cuda"})
    seed: int = field(default=0, metadata={"help": "seed of the choice of examples"})

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name, least in (("max_examples", 2), ("batch_size", 2), ("max_length", 3)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is {value}: it must be at least {least}; type --{name.replace('_', '-')} 50")
        if len(self.text_columns) > 2:
            raise ValueError(
                f"text_columns names {len(self.text_columns)} columns: a text is one, or a pair of two; type "
                "--text-columns FIRST SECOND"
            )
        if self.train_split == self.test_split:
            raise ValueError(
                f"train_split and test_split are both {self.train_split!r}: there would be nothing to compare; type "
                "--test-split NAME"
            )
