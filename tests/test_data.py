"""The embedded images, and the seeded stratified splits."""

import hashlib
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from hf_diversity.data import load_embedded, noisy_labels, stratified_split, stratified_subset
from hf_diversity.data.embedded import FILES

HUB_FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(
            names=["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"]
            + ["Ankle boot"]
        ),
    }
)


def pixel_hashes(dataset):
    return [hashlib.sha256(np.asarray(image).tobytes()).hexdigest() for image in dataset["image"]]


def test_embedded_has_the_hubs_features_and_stratified_rows(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("load_embedded opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    data = load_embedded()
    assert isinstance(data, datasets.DatasetDict) and list(data) == ["train", "test"]
    for split, size in (("train", 2000), ("test", 1000)):
        assert data[split].features == HUB_FEATURES
        assert np.bincount(data[split]["label"]).tolist() == [size // 10] * 10
        # In random order: no long run of one class at the start.
        assert len(set(data[split]["label"][:50])) == 10
    image = data["train"][0]["image"]
    assert image.size == (28, 28) and image.mode == "L" and np.asarray(image).std() > 10


def test_embedded_images_are_disjoint_and_unique():
    data = load_embedded()
    hashes = pixel_hashes(data["train"]) + pixel_hashes(data["test"])
    assert len(set(hashes)) == 3000


def test_embedded_files_are_small_and_carry_their_licence():
    assert sum(path.stat().st_size for path in FILES.values()) < 2_000_000
    notice = (FILES["train"].parent / "NOTICE").read_text()
    assert "MIT License" in notice and "2017 Zalando SE" in notice and "THE SOFTWARE IS PROVIDED" in notice


def test_the_script_is_deterministic_and_skips_duplicates(tmp_path):
    """Run on a stand-in source in the Hub's layout, with a duplicate across train and test."""
    sizes = {"train": 2500, "test": 1500}
    generator = np.random.default_rng(0)
    twin = None
    for split, size in sizes.items():
        images = list(generator.integers(0, 256, size=(size, 4, 4), dtype=np.uint8))
        labels = np.arange(size) % 10
        if twin is not None:
            images[:200] = [twin] * 200
        twin = images[0]
        source = datasets.Dataset.from_dict(
            {"image": [{"bytes": png(image), "path": None} for image in images], "label": labels},
            features=HUB_FEATURES,
        )
        (tmp_path / "source" / "data").mkdir(parents=True, exist_ok=True)
        source.to_parquet(tmp_path / "source" / "data" / f"{split}-00000-of-00001.parquet")
    script = Path(__file__).parent.parent / "scripts" / "make_embedded_data.py"
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        subprocess.run(
            [sys.executable, script, tmp_path / "source", "--destination", tmp_path / name],
            check=True,
            env={"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PATH": ""},
            capture_output=True,
        )
        contents.append([(tmp_path / name / path.name).read_bytes() for path in FILES.values()])
    assert contents[0] == contents[1]
    made = datasets.Dataset.from_parquet(str(tmp_path / "first" / FILES["test"].name), cache_dir=str(tmp_path / "c"))
    assert len(made) == 1000 and hashlib.sha256(twin.tobytes()).hexdigest() not in pixel_hashes(made)


def png(array):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_stratified_subset_keeps_shares_and_depends_on_the_seed_alone():
    labels = np.repeat([0, 1, 2], [70, 20, 10])[np.random.default_rng(1).permutation(100)]
    chosen = stratified_subset(labels, 33, seed=3)
    counts = np.bincount(labels[chosen], minlength=3)
    assert len(chosen) == len(set(chosen.tolist())) == 33
    assert np.all(np.abs(counts - 33 * np.array([0.7, 0.2, 0.1])) < 1)
    np.testing.assert_array_equal(chosen, stratified_subset(labels.tolist(), 33, seed=3))
    assert not np.array_equal(chosen, stratified_subset(labels, 33, seed=4))
    np.testing.assert_array_equal(stratified_subset(labels, 100, seed=0), np.arange(100))


def test_stratified_split_is_a_partition():
    labels = np.arange(200) % 4
    kept, held = stratified_split(labels, 0.1, seed=0)
    assert sorted([*kept, *held]) == list(range(200))
    assert np.bincount(labels[held]).tolist() == [5, 5, 5, 5]
    assert len(stratified_split(labels, 40, seed=0)[1]) == 40


@pytest.mark.parametrize("size", [0, -1, 11])
def test_stratified_subset_refuses_impossible_sizes(size):
    with pytest.raises(ValueError, match=f"cannot choose {size} of 10"):
        stratified_subset(np.zeros(10), size, seed=0)


@pytest.mark.parametrize("held_out", [0.0, 1.0, 10, 0.001])
def test_stratified_split_refuses_empty_parts(held_out):
    with pytest.raises(ValueError, match="both parts need at least 1"):
        stratified_split(np.zeros(10, dtype=int), held_out, seed=0)


def test_noisy_labels_redraws_the_stated_fraction():
    labels = np.arange(5000) % 10
    noisy, redrawn = noisy_labels(labels, 0.4, num_classes=10, seed=0)
    assert len(redrawn) == 2000
    untouched = np.setdiff1d(np.arange(5000), redrawn)
    np.testing.assert_array_equal(noisy[untouched], labels[untouched])
    # Uniform over all classes: one in ten keeps its label by chance.
    assert 0.85 < np.mean(noisy[redrawn] != labels[redrawn]) < 0.95
    np.testing.assert_array_equal(labels, np.arange(5000) % 10, "the array of the caller must not change")
    np.testing.assert_array_equal(noisy, noisy_labels(labels, 0.4, 10, seed=0)[0])
    np.testing.assert_array_equal(noisy_labels(labels, 0.0, 10, seed=0)[0], labels)
    with pytest.raises(ValueError, match="between 0 and 1"):
        noisy_labels(labels, 40, 10, seed=0)
