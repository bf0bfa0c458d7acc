"""Corrupted test images: each corruption against its definition, the same in every run, and evaluated once."""

import json
import random

import numpy as np
import pytest
import torch
from common.arguments import parse_arguments
from common.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted
from common.images import ImageArguments
from image_classification import TYPES, run
from PIL import Image

from hf_diversity.data import load_embedded
from hf_diversity.data.examples import ImageDataset, Split

NAMES = ["gaussian_noise", "translation", "contrast"]


def picture(mode="RGB", side=32):
    """Structure at every scale, away from black and white."""
    channels = 3 if mode == "RGB" else 1
    rows, columns, channel = np.mgrid[:side, :side, :channels]
    values = 128 + 50 * np.sin(rows / 3 + channel) * np.cos(columns / 5) + 20 * ((rows // 4 + columns // 4) % 2)
    return Image.fromarray(values.astype(np.uint8).squeeze())


def values(image):
    return np.asarray(image, dtype=np.float64) / 255


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_the_same_each_time_and_stronger_with_severity(name, mode):
    image, distances = picture(mode), []
    for severity in SEVERITIES:
        once = corrupt(image, name, severity)
        random.seed(severity)
        np.random.seed(severity)
        torch.manual_seed(severity)
        state = np.random.get_state()[1].copy()
        again = corrupt(picture(mode), name, severity)
        assert once.tobytes() == again.tobytes() and (np.random.get_state()[1] == state).all()
        assert once.mode == mode and once.size == image.size
        distances.append(np.abs(values(once) - values(image)).mean())
    assert distances[0] > 1e-3
    if name != "translation":  # whose distance follows the pattern
        assert distances == sorted(distances) and distances[-1] > 1.5 * distances[0]
    assert picture(mode).tobytes() == image.tobytes(), "the image itself stays"


def test_other_images_get_other_noise():
    first, second = picture(), Image.fromarray(np.asarray(picture()) + np.uint8(1))
    noise = [values(corrupt(image, "gaussian_noise", 3)) - values(image) for image in (first, second)]
    assert abs(np.corrcoef(*(one.ravel() for one in noise))[0, 1]) < 0.1


def test_noise_has_its_strength():
    grey = Image.fromarray(np.full((200, 200), 128, np.uint8))
    noise = values(corrupt(grey, "gaussian_noise", 3)) - 128 / 255
    assert noise.std() == pytest.approx(0.08, rel=0.02) and abs(noise.mean()) < 2e-3
    hit = values(corrupt(grey, "impulse_noise", 5))
    assert (hit != 128 / 255).mean() == pytest.approx(0.07, rel=0.1)
    assert set(np.unique(hit)) == {0, 128 / 255, 1} and (hit == 0).mean() == pytest.approx(0.035, rel=0.15)


def test_blur_spreads_a_point_as_a_gaussian():
    point = np.zeros((31, 31), np.uint8)
    point[15, 15] = 255
    blurred = values(corrupt(Image.fromarray(point), "gaussian_blur", 5))
    row, column = np.mgrid[-15:16, -15:16]
    bell = np.exp(-(row**2 + column**2) / 2)
    assert blurred == pytest.approx(bell / bell.sum(), abs=2 / 255)


def test_contrast_brightness_and_translation():
    image = picture("L")
    low = values(corrupt(image, "contrast", 3))
    assert low.mean() == pytest.approx(values(image).mean(), abs=2 / 255)
    assert low.std() == pytest.approx(0.4 * values(image).std(), rel=0.02)
    assert values(corrupt(image, "brightness", 3)) == pytest.approx(np.minimum(values(image) + 0.15, 1), abs=1 / 255)
    # In colour the value, the largest channel, rises by as much, and the ratios of the channels stay
    colour, bright = values(picture()), values(corrupt(picture(), "brightness", 3))
    assert bright.max(-1) == pytest.approx(np.minimum(colour.max(-1) + 0.15, 1), abs=2 / 255)
    ratio = colour * (bright.max(-1) / colour.max(-1))[..., None]
    assert bright == pytest.approx(ratio, abs=8 / 255)
    shifted = np.asarray(corrupt(image, "translation", 3))
    sides = [np.roll(np.asarray(image), (3 * down, 3 * right), (0, 1)) for down in (-1, 1) for right in (-1, 1)]
    inner = (slice(3, -3), slice(3, -3))
    (side,) = [side for side in sides if (side[inner] == shifted[inner]).all()]
    assert (shifted == 0).sum() == 32**2 - 29**2 and not (side == shifted).all()


def test_translations_go_to_all_sides():
    images = [Image.new("L", (32, 32), 9 + place) for place in range(40)]
    shifted = [np.asarray(corrupt(image, "translation", 5)) for image in images]
    came_in = {tuple(image[[0, 0, -1, -1], [0, -1, 0, -1]] == 0) for image in shifted}
    assert len(came_in) == 4


@pytest.fixture
def test_split():
    data = load_embedded()["test"].select(range(20))
    return Split(data, np.asarray(data["label"][:]))


def test_the_copies_are_made_when_asked_for_and_once(test_split):
    found = corrupted(test_split, "image", "L", "gaussian_noise", 3)
    assert found is corrupted(test_split, "image", "L", "gaussian_noise", 3)
    assert found is not corrupted(test_split, "image", "L", "gaussian_noise", 4)
    assert (found.labels == test_split.labels).all() and len(found) == 20
    clean = test_split.examples[[3, 7]]["image"]
    for place, image in enumerate(found.examples[[3, 7]]["image"]):
        assert image.tobytes() == corrupt(clean[place].convert("L"), "gaussian_noise", 3).tobytes()
        assert image.tobytes() != clean[place].tobytes()
    part = corrupted(test_split.select(np.array([7])), "image", "L", "gaussian_noise", 3)
    assert part.examples[[0]]["image"][0].tobytes() == image.tobytes(), "wherever it stands"


def train(folder, *words):
    line = ["--model", "small_mlp", "--model_args", '{"in_chans": 1}', "--dataset", "embedded", "--use_cpu", "true"]
    line += ["--max_train_samples", "64", "--max_validation_samples", "16", "--max_test_samples", "50"]
    line += ["--num_train_epochs", "4", "--per_device_train_batch_size", "16", "--per_device_eval_batch_size", "50"]
    line += ["--report_to", "none", "--disable_tqdm", "true", "--figures", "false", "--learning_rate", "0.003"]
    return run(*parse_arguments(TYPES, [*line, "--output_dir", str(folder), *words]), callbacks=[])


def test_a_run_reports_each_corruption_and_their_mean(tmp_path, monkeypatch):
    seen, original = [], ImageDataset.__getitems__

    def items(dataset, positions):
        seen.append((dataset.split, tuple(positions)))
        return original(dataset, positions)

    monkeypatch.setattr(ImageDataset, "__getitems__", items)
    found = train(tmp_path, "--test_corruptions", *NAMES, "--corruption_severity", "5")
    metrics = found["metrics"]
    assert list(metrics) == ["train", "validation", "test", *(f"test_{name}" for name in NAMES), "test_corrupted"]
    for key in ("loss", "accuracy"):
        own = [metrics[f"test_{name}"][key] for name in NAMES]
        assert metrics["test_corrupted"][key] == pytest.approx(sum(own) / 3)
    assert len({*own, metrics["test"][key]}) > 1
    assert len({values["loss"] for split, values in metrics.items() if split.startswith("test")}) == 5
    assert metrics["test_corrupted"]["loss"] > metrics["test"]["loss"]
    assert set(found["gaps"]) == {"validation", "test"} and found["arguments"]["corruption_severity"] == 5
    # The test images, clean and under each corruption: every one once
    sizes = [
        sum(len(places) for own, places in seen if own is split) for split in {id(s): s for s, _ in seen}.values()
    ]
    assert sizes.count(50) == 1 + len(NAMES)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["metrics"] == metrics
    card = (tmp_path / "README.md").read_text()
    assert f"gaussian\\_noise {metrics['test_gaussian_noise']['accuracy']:.4f}" in card and "severity 5" in card


def test_training_and_choice_do_not_notice(tmp_path):
    plain = train(tmp_path, "--keep_files", "false")
    with_them = train(tmp_path, "--keep_files", "false", "--test_corruptions", *NAMES)
    assert list(plain["metrics"]) == ["train", "validation", "test"]
    assert {split: with_them["metrics"][split] for split in plain["metrics"]} == plain["metrics"]
    tuning = train(tmp_path, "--keep_files", "false", "--test_corruptions", *NAMES, "--evaluate_test", "false")
    assert set(tuning["metrics"]) == {"train", "validation"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"test_corruptions": ["fog"]},
            "test_corruptions 'fog' is unknown: choose from gaussian_noise, impulse_noise",
        ),
        ({"corruption_severity": 6}, "corruption_severity is 6: it must be from 1 to 5"),
        ({"corruption_severity": 0}, "corruption_severity is 0"),
    ],
)
def test_impossible_corruptions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ImageArguments(**changes)
