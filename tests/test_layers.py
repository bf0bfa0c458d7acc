import pytest
import timm
import torch
import transformers
from tiny import Mlp, tiny_bert, tiny_timm
from torch import nn

from hf_diversity.capture import ActivationCapture
from hf_diversity.layers import find_layers
from hf_diversity.module_names import plain_names
from hf_diversity.output_head import check_output_layers, find_last_hidden_layers
from hf_diversity.timm_models import wrap_timm_model


def head_input(model, **inputs):
    """What the capture sees, and the logits."""
    [target] = find_last_hidden_layers(model)
    capture = ActivationCapture([target], model)
    with torch.no_grad(), capture.armed() as store:
        output = model.eval()(**inputs)
    captured = capture.take(store, training=False)
    logits = output if isinstance(output, torch.Tensor) else output["logits"]
    return target, captured[target.name][-1], logits


IMAGE_MODELS = [
    "test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_mambaout", "test_byobnet", "test_nfnet",
    "resnet10t", "mobilenetv3_small_050", "densenet121", "swin_tiny_patch4_window7_224", "mixer_s32_224",
]  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_timm_head_receives_what_is_captured(name):
    model = timm.create_model(name, num_classes=5)
    size = 224 if "224" in name else 64
    target, hidden, logits = head_input(model, x=torch.randn(2, 3, size, size))
    assert target.point == "input"
    torch.testing.assert_close(target.module(hidden).flatten(1), logits)  # the head's true input makes the logits


TEXT_MODELS = [
    ("Bert", {}), ("Roberta", {}), ("DistilBert", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}),
    ("Albert", {"embedding_size": 8}), ("Electra", {"embedding_size": 8}), ("DebertaV2", {}),
    ("Llama", {"num_key_value_heads": 2, "pad_token_id": 0}),
    ("GPT2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "pad_token_id": 0}),
    ("Bart", {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
              "decoder_attention_heads": 2, "eos_token_id": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), TEXT_MODELS)
def test_text_classifier_head_receives_what_is_captured(name, arguments):
    config = getattr(transformers, f"{name}Config")(
        vocab_size=40, num_labels=7,
        **({} if {"n_embd", "dim", "d_model"} & arguments.keys() else {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}),
        **arguments,
    )  # fmt: skip
    model = getattr(transformers, f"{name}ForSequenceClassification")(config)
    ids = torch.tensor([[5, 6, 7, 2], [8, 9, 10, 2]])
    target, hidden, logits = head_input(model, input_ids=ids)
    made = target.module(hidden)
    if made.ndim == 3:  # decoders score every token and keep the last one
        made = made[:, -1]
    torch.testing.assert_close(made, logits)
    assert logits.shape[-1] == 7


@pytest.mark.parametrize("name", ["ViT", "ResNet", "ConvNext"])
def test_image_classifier_of_transformers(name):
    small = {
        "ViT": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                "image_size": 32, "patch_size": 8},
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    }[name]  # fmt: skip
    model = getattr(transformers, f"{name}ForImageClassification")(
        getattr(transformers, f"{name}Config")(num_labels=7, **small)
    )
    target, hidden, logits = head_input(model, pixel_values=torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(target.module(hidden), logits)


def test_wrapped_timm_model_names_the_inner_head():
    model = wrap_timm_model(tiny_timm())
    target, hidden, logits = head_input(model, pixel_values=torch.randn(2, 1, 32, 32))
    assert target.name == "timm_model.head"
    torch.testing.assert_close(target.module(hidden), logits)


def test_language_models():
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config)
    target, hidden, logits = head_input(model, input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[7, 8]]))
    assert target.module is model.lm_head
    torch.testing.assert_close(target.module(hidden), logits)


def test_no_head_is_refused():
    with pytest.raises(ValueError, match="found: none"):
        find_last_hidden_layers(nn.Sequential(nn.ReLU()))


def test_patterns_stay_within_a_dotted_part():
    model = tiny_bert()
    names = [t.name for t in find_layers(model, ["bert.encoder.layer.*"])]
    assert names == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    deep = [t.name for t in find_layers(model, ["**.attention.output"])]
    assert deep == ["bert.encoder.layer.0.attention.output", "bert.encoder.layer.1.attention.output"]
    assert [t.name for t in find_layers(Mlp(), ["fc?", "fc1"])] == ["fc1", "fc2"]  # each once, in the model's order


def test_wrappers_do_not_change_names():
    model = nn.DataParallel(torch.compile(Mlp(), backend="eager"))
    assert [name for name, _ in plain_names(model)] == ["fc1", "fc2", "act2", "out"]
    assert [t.name for t in find_layers(model, ["fc2"])] == ["fc2"]


def test_a_users_own_module_called_module_keeps_its_name():
    model = Mlp()
    model.module = Mlp()
    assert find_layers(model, ["module.fc1"])[0].module is model.module.fc1
    assert find_layers(model, ["fc1"])[0].module is model.fc1


def test_a_shared_module_has_both_names_and_is_taken_once():
    model = Mlp()
    model.again = model.fc2
    assert find_layers(model, ["again"])[0].module is model.fc2
    assert len(find_layers(model, ["again", "fc2"])) == 1


def test_own_classifier_over_a_transformers_encoder():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = tiny_bert().bert
            self.classifier = nn.Linear(16, 3)

    model = Mine()
    assert find_last_hidden_layers(model)[0].module is model.classifier


class TwoHeads(nn.Module):
    def __init__(self, auxiliary):
        super().__init__()
        self.trunk, self.out = nn.Linear(4, 4), nn.Linear(4, 3)
        self.aux = nn.Linear(4, 3)
        self.auxiliary = auxiliary

    def forward(self, x):
        hidden = torch.relu(self.trunk(x))
        return self.out(hidden).square().mean() + self.auxiliary * self.aux(hidden).square().mean()


@pytest.mark.parametrize("auxiliary", [0, 1])
def test_a_wrong_guess_of_the_head_is_noticed_in_the_first_step(auxiliary):
    model = TwoHeads(auxiliary)
    [target] = find_last_hidden_layers(model)
    assert target.name == "aux"  # the last one registered
    loss = model(torch.randn(2, 4)) if auxiliary else model.out(torch.relu(model.trunk(torch.randn(2, 4)))).mean()
    with pytest.raises(ValueError, match=r"input of 'aux', but the loss comes from .*out.*layers=\[\.\.\.\]"):
        check_output_layers(model, [target], loss)


@pytest.mark.parametrize("cast", [False, True])
def test_a_right_head_passes_the_check(cast):
    bert, mlp = tiny_bert(), Mlp()
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        ids = torch.randint(5, 40, (3, 6))
        loss = bert(input_ids=ids, labels=torch.tensor([0, 1, 2])).loss
        check_output_layers(bert, find_last_hidden_layers(bert), loss)
        check_output_layers(mlp, find_last_hidden_layers(mlp), mlp(torch.randn(3, 6), torch.tensor([0, 1, 2]))["loss"])
    bert.classifier.requires_grad_(False)
    check_output_layers(bert, find_last_hidden_layers(bert), bert(input_ids=ids, labels=torch.tensor([0, 1, 2])).loss)


def test_a_timm_models_own_names_serve_inside_the_wrapper():
    model = wrap_timm_model(tiny_timm("test_resnet"), model_args={"in_chans": 1})
    assert [t.name for t in find_layers(model, ["layer4", "layer1.*"])] == ["timm_model.layer1.0", "timm_model.layer4"]
    assert find_layers(model, ["timm_model.layer4"]) == find_layers(model, ["layer4"])
