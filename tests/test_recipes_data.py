"""Data of the recipes: what is trained on, chosen with, tested on, and what the model sees of it."""

import datasets
import numpy as np
import pytest
import timm
import torch
from common.data import describe_data, load_splits
from common.image_models import build_image_model
from common.images import (
    ImageArguments,
    ImageModelArguments,
    augmentation,
    channel_statistics,
    image_column,
)
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    set_seed,
)

from hf_diversity.data import load_embedded
from hf_diversity.data.examples import ImageDataset, Split


def keys(split):
    """Images as hashable values."""
    return [image.tobytes() for image in split.examples["image"]]


def small(train=40, test=20):
    data = load_embedded()
    return datasets.DatasetDict(
        {"train": data["train"].select(range(train)), "test": data["test"].select(range(test))}
    )


def test_validation_is_a_stratified_part_of_the_training_set_alone():
    splits = load_splits(ImageArguments(validation_fraction=0.2))
    assert splits.describe() == {"train": 1600, "validation": 400, "test": 1000}
    assert np.bincount(splits.validation.labels).tolist() == [40] * 10
    train, validation, test = keys(splits.train), keys(splits.validation), keys(splits.test)
    assert not set(train) & set(validation) and not (set(train) | set(validation)) & set(test)
    assert set(train) | set(validation) == {image.tobytes() for image in load_embedded()["train"]["image"]}
    assert test == [image.tobytes() for image in load_embedded()["test"]["image"]]
    again = load_splits(ImageArguments(validation_fraction=0.2))
    assert keys(again.validation) == validation
    assert keys(load_splits(ImageArguments(validation_fraction=0.2, split_seed=1)).validation) != validation


def test_subsets_leave_the_validation_set_alone():
    whole = load_splits(ImageArguments())
    part = load_splits(ImageArguments(max_train_samples=100, max_test_samples=50))
    assert part.describe() == {"train": 100, "validation": 200, "test": 50}
    assert np.bincount(part.train.labels).tolist() == [10] * 10
    assert keys(part.validation) == keys(whole.validation) and set(keys(part.train)) < set(keys(whole.train))


def test_label_noise_touches_training_labels_alone():
    clean = load_splits(ImageArguments())
    noisy = load_splits(ImageArguments(label_noise=0.4))
    changed = np.mean(clean.train.labels != noisy.train.labels)
    assert noisy.noisy == 720 and 0.33 < changed < 0.39
    np.testing.assert_array_equal(clean.validation.labels, noisy.validation.labels)
    np.testing.assert_array_equal(clean.test.labels, noisy.test.labels)
    assert describe_data(ImageArguments(label_noise=0.4), noisy)["noisy_labels"] == 720


@pytest.mark.parametrize("form", ["folder", "disk", "files"])
def test_local_data_in_every_form(tmp_path, form):
    data = small()
    if form == "folder":
        (tmp_path / "mine" / "data").mkdir(parents=True)
        for split in data:
            data[split].to_parquet(tmp_path / "mine" / "data" / f"{split}-00000-of-00001.parquet")
        arguments = ImageArguments(dataset=str(tmp_path / "mine"))
    elif form == "disk":
        data.save_to_disk(tmp_path / "mine")
        arguments = ImageArguments(dataset=str(tmp_path / "mine"))
    else:
        for split in data:
            data[split].to_parquet(tmp_path / f"{split}_images.parquet")
        arguments = ImageArguments(
            dataset=str(tmp_path / "train_images.parquet"), test_dataset=str(tmp_path / "test_images.parquet")
        )
    splits = load_splits(arguments)
    assert splits.describe() == {"train": 36, "validation": 4, "test": 20}
    assert splits.label_names[9] == "Ankle boot"
    assert keys(splits.test) == [image.tobytes() for image in data["test"]["image"]]
    described = describe_data(arguments, splits)
    assert str(tmp_path) not in str(described) and described["hub_id"] is None


def test_labels_as_text_are_encoded_alike_in_all_splits(tmp_path):
    data = small(train=120)
    names = data["train"].features["label"].names
    texts = {split: [names[label] for label in data[split]["label"]] for split in data}
    data = datasets.DatasetDict({s: data[s].remove_columns("label").add_column("target", texts[s]) for s in data})
    data.save_to_disk(tmp_path / "mine")
    splits = load_splits(ImageArguments(dataset=str(tmp_path / "mine")))
    assert splits.label_names == sorted(names)
    assert [splits.label_names[label] for label in splits.test.labels] == texts["test"]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, {"label_column": "lable"}, "no column 'lable'.*did you mean 'label'"),
        (lambda d: d.rename_column("label", "y"), {}, "'y' is called label or labels.*type label_column: NAME"),
        (None, {"test_split": "tests"}, "has no test split 'tests': it has 'train', 'test'.*test_dataset: PATH"),
        (None, {"test_split": "train"}, "the test split must be another"),
        (None, {"validation_split": "test"}, "the test split must be another"),
        (None, {"validation_split": "dev"}, "has no validation split 'dev'"),
        (None, {"validation_fraction": 0.001}, "both parts need at least 1"),
    ],
)
def test_unusable_data_are_named(tmp_path, change, arguments, message):
    data = small() if change is None else datasets.DatasetDict({k: change(v) for k, v in small().items()})
    data.save_to_disk(tmp_path / "mine")
    with pytest.raises(ValueError, match=message):
        load_splits(ImageArguments(dataset=str(tmp_path / "mine"), **arguments))


def test_hidden_test_labels_are_refused(tmp_path):
    train = datasets.Dataset.from_dict({"text": list("abcdefgh"), "label": [0, 1] * 4})
    test = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [-1, -1]})
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"'test': labels \[-1\] are not among the 2 training classes"):
        load_splits(ImageArguments(dataset=str(tmp_path / "mine"), validation_fraction=0.25))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no such folder or file"),
        ("nowhere.parquet", "no such folder or file"),
        ("someone/unheard-of-data", "neither as a local path nor from the Hub"),
    ],
)
def test_a_dataset_that_is_not_there(name, message):
    with pytest.raises(ValueError, match=message):
        load_splits(ImageArguments(dataset=name))


def test_a_column_without_images_is_refused(tmp_path):
    splits = load_splits(ImageArguments(max_train_samples=10))
    assert image_column(splits.train, ImageArguments()) == "image"
    with pytest.raises(ValueError, match="image column 'label' holds .*not images"):
        image_column(splits.train, ImageArguments(image_column="label"))


def test_channel_statistics_are_those_of_the_pixels():
    train = load_splits(ImageArguments(max_train_samples=50)).train
    pixels = np.stack([np.asarray(image) for image in train.examples["image"]]) / 255
    mean, deviation = channel_statistics(train, "image", "L")
    assert mean == (pytest.approx(pixels.mean(), abs=6e-4),)
    assert deviation == (pytest.approx(pixels.std(), abs=6e-4),)
    assert len(channel_statistics(train, "image", "RGB")[0]) == 3


def build(model="test_resnet", model_args=None, data=None, **kwargs):
    data = data or ImageArguments(max_train_samples=20)
    splits = load_splits(data)
    arguments = ImageModelArguments(model=model, model_args=model_args or {}, **kwargs)
    return build_image_model(arguments, data, splits.label_names, splits.train, "image"), splits


def test_a_timm_model_from_scratch_starts_from_timms_own_weights():
    set_seed(5)
    expected = timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict()
    set_seed(5)
    built, _ = build(model_args={"in_chans": 1})
    found = built.model.timm_model.state_dict()
    assert built.mode == "L" and found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def test_what_is_saved_makes_the_same_inputs_and_predictions(tmp_path):
    built, splits = build(model_args={"in_chans": 1})
    built.model.eval().save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert model.config.id2label[9] == "Ankle boot" and model.config.label2id["Bag"] == 8
    seen = ImageDataset(splits.test, "image", built.mode, built.processor)[3]["pixel_values"]
    again = processor(splits.test.examples[3]["image"], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(seen, again, rtol=0, atol=0)
    # Nothing was cut off or resized: it is the image, normalised.
    pixels = torch.tensor(np.asarray(splits.test.examples[3]["image"])) / 255
    config = model.config.pretrained_cfg
    torch.testing.assert_close(seen[0], (pixels - config["mean"][0]) / config["std"][0])
    with torch.no_grad():
        torch.testing.assert_close(model(seen[None]).logits, built.model(seen[None]).logits, rtol=0, atol=0)


def test_colour_models_and_fixed_sizes():
    built, splits = build("test_vit", data=ImageArguments(max_train_samples=20, image_size=32))
    assert built.mode == "RGB" and built.model.config.model_args["img_size"] == 32
    inputs = ImageDataset(splits.test, "image", built.mode, built.processor)[0]["pixel_values"]
    assert inputs.shape == (3, 32, 32) and built.model(inputs[None]).logits.shape == (1, 10)


def test_start_weights_from_a_file(tmp_path):
    from safetensors.torch import save_file

    donor = timm.create_model("test_resnet", num_classes=1000)
    save_file(donor.state_dict(), tmp_path / "w.safetensors")
    built, _ = build(weights=str(tmp_path / "w.safetensors"))
    torch.testing.assert_close(built.model.timm_model.conv1[0].weight, donor.conv1[0].weight)
    assert built.model.timm_model.fc.out_features == 10
    assert str(tmp_path) not in built.model.config.to_json_string()
    # A model that starts from weights keeps the size that they were made for.
    assert built.processor.data_config["input_size"] == (3, 160, 160)


def tiny_vit_folder(path, weights):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28, patch_size=7
    )
    (ViTForImageClassification(config) if weights else config).save_pretrained(path)
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(path)
    return path


def test_a_transformers_folder_from_scratch_and_pretrained(tmp_path):
    folder = tiny_vit_folder(tmp_path / "vit", weights=True)
    scratch, splits = build(str(folder))
    tuned, _ = build(str(folder), pretrained=True)
    donor = ViTForImageClassification.from_pretrained(folder)
    weight = "vit.embeddings.cls_token"
    torch.testing.assert_close(tuned.model.state_dict()[weight], donor.state_dict()[weight], rtol=0, atol=0)
    assert not torch.equal(scratch.model.state_dict()[weight], donor.state_dict()[weight])
    for built in (scratch, tuned):
        assert built.model.config.num_labels == 10 and built.mode == "RGB"
        inputs = ImageDataset(splits.test, "image", built.mode, built.processor)[0]["pixel_values"]
        assert built.model(inputs[None]).logits.shape == (1, 10)


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        ("resnet1", {}, "neither a timm name nor a folder: did you mean .*resnet1"),
        ("test_resnet", {"model_args": {"depht": 3}}, "failed with model_args {'depht': 3}"),
        ("test_resnet", {"model_args": {"in_chans": 5}}, "in_chans is 5"),
        ("test_resnet", {"weights": "nowhere.safetensors"}, "nowhere.safetensors: no such file"),
        ("someone/unheard-of-model", {}, "neither a local folder with config.json nor on the Hub"),
        ("someone/unheard-of-model", {"weights": "w"}, "weights belongs to timm architectures"),
    ],
)
def test_unusable_models_are_named(model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(model, **kwargs)


def test_augmentation_changes_training_images_alone():
    splits = load_splits(ImageArguments(max_train_samples=20))
    built, _ = build(model_args={"in_chans": 1})
    change = augmentation(ImageArguments(augmentation=["crop", "flip"], crop_padding=4))
    assert augmentation(ImageArguments()) is None
    torch.manual_seed(0)
    varied = ImageDataset(splits.train, "image", "L", built.processor, change)
    assert varied[0]["pixel_values"].shape == (1, 28, 28)
    views = torch.stack([varied[0]["pixel_values"] for _ in range(20)])
    assert len({view.numpy().tobytes() for view in views}) > 10
    plain = ImageDataset(splits.train, "image", "L", built.processor)
    torch.testing.assert_close(plain[0]["pixel_values"], plain[0]["pixel_values"], rtol=0, atol=0)


def test_crop_cuts_the_original_size_out_of_a_padded_image():
    image = Image.fromarray(np.full((10, 12), 255, dtype=np.uint8))
    torch.manual_seed(0)
    crops = [augmentation(ImageArguments(augmentation=["crop"], crop_padding=3))(image) for _ in range(50)]
    assert {crop.size for crop in crops} == {(12, 10)}
    zeros = [np.sum(np.asarray(crop) == 0) for crop in crops]
    assert max(zeros) > 0 and max(zeros) <= 10 * 12 - 7 * 9


def test_inputs_made_once_are_the_same_as_made_anew(monkeypatch):
    splits = load_splits(ImageArguments(max_train_samples=20, label_noise=0.5))
    built, _ = build(model_args={"in_chans": 1})
    remembered = ImageDataset(splits.train, "image", "L", built.processor)
    first, mixed = remembered.__getitems__([3, 5]), remembered.__getitems__([5, 0, 3])
    monkeypatch.setattr("hf_diversity.data.examples.CACHE_BYTES", 0)
    # A split of its own: what is made is remembered with the split.
    anew = ImageDataset(Split(splits.train.examples, splits.train.labels), "image", "L", built.processor)
    for item, position in zip([*first, *mixed], [3, 5, 5, 0, 3], strict=True):
        torch.testing.assert_close(item["pixel_values"], anew[position]["pixel_values"], rtol=0, atol=0)
        assert item["labels"] == splits.train.labels[position]
    assert anew._memory.inputs is None and remembered._memory.inputs is not None
    assert ImageDataset(splits.train, "image", "L", built.processor)._memory is remembered._memory
    other = ImageArguments(max_train_samples=20, image_mean=[0.1], image_std=[0.2])
    another, _ = build(model_args={"in_chans": 1}, data=other)
    assert ImageDataset(splits.train, "image", "L", another.processor)._memory is not remembered._memory
