"""The paper's protocol: its networks, its schedule, its split, and every configuration for two steps."""

import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from common.arguments import RunArguments, parse_arguments
from common.data import load_splits
from common.images import ImageArguments
from common.schedule import RecipeTrainer, steps_per_epoch
from image_classification import TYPES, run
from tiny import Mlp, Rows, arguments, weights
from transformers import AutoModelForImageClassification

import hf_diversity.cifar_models  # noqa: F401  registers the CIFAR architectures
from hf_diversity import DiversityConfig
from hf_diversity.data import load_embedded

PAPER = Path(__file__).parent.parent / "recipes" / "configs" / "paper"
CONFIGS = sorted(path for path in PAPER.glob("*.yaml") if not path.name.startswith("_"))


def parameters(name, classes=10, **kwargs):
    return sum(p.numel() for p in timm.create_model(name, num_classes=classes, **kwargs).parameters())


def bottlenecks(blocks, cardinality, base, classes):
    """Weights of a CIFAR residual network with bottlenecks, counted by hand."""
    total, channels = 3 * 64 * 9 + 2 * 64, 64
    for stage, repeats in enumerate(blocks):
        inner, outer = cardinality * base * 2**stage, 256 * 2**stage
        for block in range(repeats):
            total += channels * inner + inner * inner // cardinality * 9 + inner * outer + 2 * (2 * inner + outer)
            total += (channels * outer + 2 * outer) if block == 0 else 0
            channels = outer
    return total + channels * classes + classes


def dense(layers, growth, classes):
    """Weights of DenseNet-BC for CIFAR, counted by hand."""
    channels = 2 * growth
    total = 3 * channels * 9
    for block in range(3):
        for _ in range((layers - 4) // 6):
            total += 2 * channels + channels * 4 * growth + 2 * 4 * growth + 4 * growth * growth * 9
            channels += growth
        if block < 2:
            total += 2 * channels + channels * (channels // 2)
            channels //= 2
    return total + 2 * channels + channels * classes + classes


def test_the_networks_have_the_published_numbers_of_weights():
    # Xie et al. (2017), table 7: ResNeXt-29, 8x64d has 34.4 million. Huang et al. (2017), table 2: DenseNet-BC with
    # 100 layers and k = 12 has 0.8 million.
    wide = parameters("cifar_resnext29_8x16d", base_width=64)
    assert round(wide / 1e6, 1) == 34.4 and wide == bottlenecks((3, 3, 3), 8, 64, 10)
    small = parameters("cifar_densenet_bc_100_12")
    assert round(small / 1e6, 1) == 0.8 and small == dense(100, 12, 10)
    # No published number: by the same count.
    assert parameters("cifar_resnext29_8x16d", 100) == bottlenecks((3, 3, 3), 8, 16, 100)
    assert parameters("cifar_resnet50", 100) == bottlenecks((3, 4, 6, 3), 1, 64, 100)


@pytest.mark.parametrize(
    ("name", "features"),
    [("cifar_resnext29_8x16d", (1024, 8)), ("cifar_resnet50", (2048, 4)), ("cifar_densenet_bc_100_12", (342, 8))],
)
def test_nothing_is_thrown_away_before_the_first_stage(name, features):
    model = timm.create_model(name, num_classes=7, in_chans=1).eval()
    images = torch.randn(1, 1, 32, 32)
    channels, side = features
    assert model.forward_features(images).shape == (1, channels, side, side)
    assert model(images).shape == (1, 7) and model.num_features == channels
    first = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    fan = first.weight[0].numel() if "dense" in name else first.weight[:, 0].numel()
    assert first.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.15)  # Kaiming, as the rest


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_trains_for_two_steps(config, tmp_path):
    imagenet = config.stem.startswith("imagenet")
    words = ["--config", str(config), "--dataset", "embedded", "--label_column", "label", "--test_split", "test"]
    words += ["--max_train_samples", "4", "--max_validation_samples", "2", "--max_test_samples", "2"]
    words += ["--image_size", "64" if imagenet else "16", "--per_device_train_batch_size", "2"]
    words += ["--max_steps", "2", "--logging_steps", "1", "--eval_strategy", "no", "--save_strategy", "no"]
    words += ["--figures", "false", "--measure_similarity", "false", "--label_noise", "0.5"]
    words += ["--disable_tqdm", "true", "--use_cpu", "true", "--output_dir", str(tmp_path)]
    found = run(*parse_arguments(TYPES, words))
    steps = [record for record in found["history"] if "task_loss" in record]
    assert len(steps) == 2 and all(np.isfinite(record["loss"]) for record in steps)
    assert [record["learning_rate"] for record in steps] == [0.1, 0.1]
    for record in steps:
        parts = record["task_loss"] + 1e-3 * record["diversity"] + 1e-3 * record["activation_norm"]
        assert record["loss"] == pytest.approx(parts, rel=1e-5)
    assert found["data"]["noisy_labels"] == 2 and found["arguments"]["momentum"] == 0.9
    card = (tmp_path / "README.md").read_text()
    assert ("import hf_diversity.cifar_models" in card) == (not imagenet)
    if "densenet" in config.stem:
        reloaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert sum(p.numel() for p in reloaded.parameters()) == found["model"]["parameters"]
    shutil.rmtree(tmp_path)  # the largest is 270 MB


def test_the_configurations_say_what_the_index_says():
    assert len(CONFIGS) == 10
    for config in CONFIGS:
        words = ["--config", str(config), "--use_cpu", "true"]
        model, data, schedule, diversity, training = parse_arguments(TYPES, words)
        assert training.output_dir == f"outputs/paper/{config.stem}" and timm.is_model(model.model)
        assert training.optim == "sgd" and schedule.momentum == 0.9 and training.weight_decay == 1e-4
        assert training.learning_rate == 0.1 and schedule.lr_milestones == [60, 120, 160] and schedule.lr_factor == 0.2
        assert training.num_train_epochs == 200 and training.per_device_train_batch_size == 128
        assert training.max_grad_norm == 0 and training.get_warmup_steps(100) == 0
        assert diversity.diversity_weight == diversity.activation_weight > 0
        if config.stem.startswith("cifar"):
            assert (data.train_split, data.validation_split) == ("train[:80%]", "train[80%:]")
            assert data.label_column == ("fine_label" if "cifar100" in config.stem else None)
        else:
            assert data.test_split == "validation" and data.validation_split is None


def test_the_first_images_train_and_the_last_validate():
    whole = load_embedded()["train"]
    splits = load_splits(ImageArguments(train_split="train[:80%]", validation_split="train[80%:]"))
    assert splits.describe() == {"train": 1600, "validation": 400, "test": 1000}
    labels = np.array(whole["label"])
    np.testing.assert_array_equal(splits.train.labels, labels[:1600])
    np.testing.assert_array_equal(splits.validation.labels, labels[1600:])
    assert splits.validation.examples[0]["image"].tobytes() == whole[1600]["image"].tobytes()
    part = load_splits(ImageArguments(train_split="train[10:30]", validation_split="train[1990:]"))
    assert part.describe() == {"train": 20, "validation": 10, "test": 1000}
    for name, message in (("train[5000:]", "'train\\[5000:\\]' of embedded is empty"), ("trian[:9]", "has no train")):
        with pytest.raises(ValueError, match=message):
            load_splits(ImageArguments(train_split=name))


def trainer_for(path, schedule, **settings):
    return RecipeTrainer(
        model=Mlp(), args=arguments(path, **settings), train_dataset=Rows(), run=schedule,
        diversity=DiversityConfig(diversity_weight=0.0),
    )  # fmt: skip


def test_the_learning_rate_falls_at_the_milestones(tmp_path):
    schedule = RunArguments(lr_milestones=[1, 3], lr_factor=0.2)
    # 16 rows in batches of 4, two a step: 2 steps an epoch.
    settings = {"gradient_accumulation_steps": 2, "max_steps": -1, "num_train_epochs": 4}
    trainer = trainer_for(tmp_path, schedule, **settings)
    trainer.train()
    rates = [record["learning_rate"] for record in trainer.state.log_history if "loss" in record]
    assert rates == pytest.approx([0.1] * 2 + [0.02] * 4 + [0.004] * 2)


@pytest.mark.parametrize(
    ("examples", "batch", "processes", "accumulation", "drop", "steps"),
    [
        (40000, 128, 1, 1, False, 313),
        (40000, 128, 1, 1, True, 312),
        (40000, 64, 2, 1, False, 313),
        (40000, 32, 2, 2, False, 313),
        (3, 8, 1, 4, False, 1),
    ],
)
def test_the_steps_of_an_epoch(examples, batch, processes, accumulation, drop, steps):
    settings = types.SimpleNamespace(
        train_batch_size=batch,
        world_size=processes,
        gradient_accumulation_steps=accumulation,
        dataloader_drop_last=drop,
    )
    assert steps_per_epoch(examples, settings) == steps


def test_momentum_is_that_of_the_optimiser(tmp_path):
    found = trainer_for(
        tmp_path, RunArguments(momentum=0.9), per_device_train_batch_size=16, max_steps=3, weight_decay=0.1
    )
    found.train()
    model, rows = Mlp(), Rows()
    decayed = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    others = [p for name, p in model.named_parameters() if name.endswith("bias")]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others}]
    optimiser = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for _ in range(3):
        optimiser.zero_grad()
        model(rows.x, rows.labels)["loss"].backward()
        optimiser.step()
    for name, value in weights(model).items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"lr_milestones": [3, 2]}, "lr_milestones are \\[3, 2\\]: epochs, rising"),
        ({"lr_milestones": []}, "lr_milestones are \\[\\]"),
        ({"lr_factor": 5.0}, "lr_factor is 5.0"),
    ],
)
def test_impossible_schedules_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RunArguments(**change)


def test_schedules_that_do_not_go_with_other_arguments(tmp_path):
    with pytest.raises(ValueError, match="momentum is 0.9 but optim is adamw.*type optim: sgd"):
        trainer_for(tmp_path, RunArguments(momentum=0.9), optim="adamw_torch")
    with pytest.raises(ValueError, match="lr_milestones go without warm-up"):
        trainer_for(tmp_path, RunArguments(lr_milestones=[1]), warmup_steps=2)
