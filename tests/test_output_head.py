"""`layers=None` against an independent oracle, over timm's families (on the meta device) and transformers' classes."""

import json

import pytest
import timm
import torch
import transformers
from architectures import CLASSES, tiny_transformer
from head_oracle import head_inputs
from launch import SCRIPTS, launch
from tiny import Images, arguments, tiny_bert
from torch import nn

from hf_diversity import DiversityTrainer
from hf_diversity.capture import ActivationCapture
from hf_diversity.dummy_inputs import dummy_inputs
from hf_diversity.layers import find_layers
from hf_diversity.output_head import check_output_layers, find_last_hidden_layers
from hf_diversity.timm_models import wrap_timm_model

FAMILIES = [
    "beit", "byobnet", "convnext", "crossvit", "deit", "densenet", "dla", "dpn", "edgenext", "efficientformer",
    "efficientvim", "eva", "gemma4_vit", "levit", "metaformer", "mlp_mixer", "mobilenetv3", "naflexvit", "regnet",
    "repvit", "resnet", "resnetv2", "swiftformer", "vgg", "vision_transformer", "volo",
]  # fmt: skip
# Families whose first model has one head and another has two, or none at all
ALSO = ["deit_tiny_distilled_patch16_224", "efficientvim_m1_dist", "iformer_m_distilled", "gemma4_vit_167m_enc"]


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return timm.create_model(name, **kwargs).eval()


def misses(model, inputs):
    """Says in which way the captured tensors are not the head's true inputs; "" if they are."""
    targets = find_last_hidden_layers(model)
    capture = ActivationCapture(targets, model)
    kept = {}

    def run(model):
        with capture.armed() as store:
            kept["output"] = model(**inputs)
        kept.update(capture.take(store, training=False))
        return kept["output"]

    true = head_inputs(model, run)
    if targets[0].point == "output":  # no head: what the model itself gives
        return "" if kept[targets[0].name][0] is kept["output"] else f"{targets[0].name} is not the output"
    if sorted(true) != sorted(t.name for t in targets):
        return f"found {[t.name for t in targets]}, true {sorted(true)}"
    wrong = [name for name, hidden in true.items() if kept[name][-1] is not hidden]
    return f"another tensor at {wrong}" if wrong else ""


def wrapped(name):
    with torch.device("meta"):
        config = transformers.TimmWrapperConfig(architecture=name, num_labels=7)
        return transformers.TimmWrapperForImageClassification(config).eval()


def sweep(names, check):
    there = [name for name in names if timm.is_model(name)]  # older versions of timm have fewer
    assert len(there) >= len(names) - 3
    names = there
    failures = {name: said for name in names if (said := check(name))}
    print(f"\nlast hidden layer right for {len(names) - len(failures)} of {len(names)}: {failures}")
    assert not failures


def raw(name):
    model = on_meta(name, num_classes=7)
    return misses(model, dummy_inputs(model))


def as_raw(name):
    """Says how the wrapped model's heads differ from the raw one's."""
    model, outer = on_meta(name, num_classes=7), wrapped(name)
    names = [t.name for t in find_last_hidden_layers(outer)]
    expected = [f"timm_model.{t.name}" for t in find_last_hidden_layers(model)]
    return "" if names == expected else f"wrapped: {names}, raw: {expected}"


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9), reason="older meta tensors cannot run all of them"
)
def test_representative_timm_families():
    first = [(timm.list_models(module=family) or [f"none of {family}"])[0] for family in FAMILIES]
    sweep(first + ALSO, raw)


def test_wrapped_timm_models():
    sweep(["test_vit", "test_resnet", "efficientvim_m1", "levit_128s", "volo_d1_224", "crossvit_9_240"], as_raw)


def test_timm_without_classes():
    def check(name):
        model = on_meta(name, num_classes=0)
        return misses(model, dummy_inputs(model))

    sweep(["test_vit", "test_resnet", "test_convnext", "resnet50_clip", "efficientformer_l1", "volo_d1_224"], check)


@pytest.mark.slow
def test_every_timm_family():
    names = []
    for family in timm.list_modules():
        models = timm.list_models(module=family)
        names += {*models[:1], *models[-1:], *(m for m in models if "dist" in m)}
    assert len(names) > len(timm.list_modules())
    sweep(names, lambda name: raw(name) or ("" if "_enc" in name else as_raw(name)))


@pytest.mark.parametrize("name", ["volo_d1_224", "deit_tiny_distilled_patch16_224"])
def test_both_heads_of_a_timm_model_reach_the_loss(name):
    """What evaluation mode tells holds in the training step."""
    model = timm.create_model(name, num_classes=3, img_size=32, depth=1) if "deit" in name else on_meta(name)
    model.train()
    targets = find_last_hidden_layers(model)
    loss = model(dummy_inputs(model)["x"]).float().square().sum()
    assert len(targets) == 2
    check_output_layers(model, targets, loss)
    with pytest.raises(ValueError, match="but the loss comes from"):
        check_output_layers(model, targets[:1], loss)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_transformers_class(name):
    model = tiny_transformer(name)
    assert misses(model, dummy_inputs(model, sequence_length=CLASSES[name].get("length"))) == ""


@pytest.mark.parametrize("name", [f"{kind}ForImageClassification" for kind in ("Beit", "ResNet", "ViT")])
def test_base_models_have_no_head(name):
    """Their residual stream ends in several layers, none of which is a head."""
    with pytest.raises(ValueError, match=r"found: none.*layers=\[\.\.\.\]"):
        find_last_hidden_layers(tiny_transformer(name).base_model)


def test_own_head_over_a_timm_backbone():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = timm.create_model("test_resnet", num_classes=0)
            self.classifier = nn.Linear(96, 3)

    model = Mine()
    assert find_last_hidden_layers(model)[0].module is model.classifier


def test_watching_leaves_the_model_and_the_random_state_alone():
    model = timm.create_model("efficientformer_l1", num_classes=3).train()
    before, state = torch.random.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    assert len(find_last_hidden_layers(model)) == 2
    assert torch.equal(before, torch.random.get_rng_state()) and model.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert not model.training or all(m.training for m in model.modules())


def test_after_an_evaluation_with_gradients():
    """LeViT keeps attention biases with a graph, which cannot be copied."""
    model = on_meta("levit_128s")
    model(**dummy_inputs(model))
    assert len(find_last_hidden_layers(model)) == 2


@pytest.mark.parametrize("saved", [False, True])
def test_peft_heads(saved):
    peft = pytest.importorskip("peft")
    plain = {"modules_to_save": ["classifier"], "target_modules": ["query"]}
    config = peft.LoraConfig(**(plain if saved else {"target_modules": ["query", "classifier"]}))
    model = peft.get_peft_model(tiny_bert(), config)
    [target] = find_last_hidden_layers(model)
    ids = torch.randint(5, 40, (3, 6))
    capture = ActivationCapture([target], model)
    with capture.armed() as store:
        loss = model(input_ids=ids, labels=torch.tensor([0, 1, 2])).loss
    [hidden] = capture.take(store, training=True)[target.name]
    assert hidden.shape == (3, 16)  # not the adapter's inside
    assert target.name == ("classifier.modules_to_save.default" if saved else "classifier")
    check_output_layers(model, [target], loss)


def test_wrappers_around_a_model_with_two_heads():
    model = on_meta("efficientformer_l1", num_classes=3)
    names = [t.name for t in find_layers(model, None)]
    for wrapper in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert [t.name for t in find_layers(wrapper, None)] == names == ["head", "head_dist"]


def test_a_layer_that_is_never_called_is_no_head():
    """A fused kernel reads its weight; its hook would never fire."""

    def forward_head(self, x, pre_logits=False):
        return self.head(x[:, 0]) + nn.functional.linear(x[:, 1], self.head_dist.weight)

    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, img_size=32, depth=1)
    model.__class__ = type("Fused", (type(model),), {"forward_head": forward_head})
    with pytest.raises(ValueError, match=r"found: head, head_dist.*layers=\[\.\.\.\]"):
        find_last_hidden_layers(model)


def test_two_heads_train(tmp_path):
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, in_chans=1, img_size=32, depth=1)
    args = arguments(tmp_path, max_steps=2)
    trainer = DiversityTrainer(
        model=wrap_timm_model(model, {"in_chans": 1, "img_size": 32, "depth": 1}), args=args, train_dataset=Images()
    )
    trainer.train()
    record = trainer.state.log_history[0]
    parts = [record[f"diversity/timm_model.{head}"] for head in ("head", "head_dist")]
    assert parts[0] != parts[1] and sum(parts) == pytest.approx(record["diversity"])


def test_wrapped_models_have_the_heads_of_bare_ones():
    output = launch(SCRIPTS / "wrapped_heads.py", processes=1)
    records = [json.loads(line.removeprefix("RESULT ")) for line in output.splitlines() if line.startswith("RESULT ")]
    assert len(records) == 8
    for record in records:
        bare = record["bare"]
        assert bare and all(point == "input" for _, point in bare), record
        for how in ("ddp", "fsdp2", "compile", "ddp of compile"):
            if (record["model"], how) != ("CLIPModel", "fsdp2"):
                assert record[how] == bare, (record["model"], how)
    assert len(next(r["bare"] for r in records if r["model"] == "CLIPModel")) == 2
