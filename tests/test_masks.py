"""Padding never counts: the regulariser and its gradient are those of the sequences one by one, without padding."""

import pytest
import torch
from architectures import tiny_transformer
from tiny import assert_same, tiny_bert, tiny_timm
from torch import nn

from hf_diversity import DiversityConfig
from hf_diversity.capture import ActivationCapture, LayerTarget
from hf_diversity.layers import count_prefix_tokens, find_layers
from hf_diversity.masks import is_encoder_decoder, position_mask
from hf_diversity.regularizer import DiversityRegularizer
from hf_diversity.samples import rows_by_layer
from hf_diversity.timm_models import wrap_timm_model

SEQUENCES = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
HEAD = LayerTarget("lm_head", nn.Identity(), "input")


def rows_of(model, batches, config, two_streams=False):
    """The rows of `layers=None` over some batches."""
    targets = find_layers(model, config.layers, config.drop_prefix_tokens)
    capture, rows = ActivationCapture(targets, model), []
    for batch in batches:
        with capture.armed() as store:
            model(**batch)
        masks = {t.name: position_mask(batch, t, two_streams) for t in targets}
        rows.append(rows_by_layer(capture.take(store, True), targets, config, masks)[targets[0].name])
    return torch.cat(rows)


def padded(length=6, left=False):
    fill = [[0] * (length - len(s)) for s in SEQUENCES]
    ids = [f + s if left else s + f for s, f in zip(SEQUENCES, fill, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(ids).ne(0).long()}


def packed(**more):
    flat = [t for s in SEQUENCES for t in s]
    return {"input_ids": torch.tensor([flat]), **more}


def positions(padding=0):
    return torch.tensor([[p for s in SEQUENCES for p in range(len(s))] + [0] * padding])


def assert_same_regulariser(model, batch, samples, two_streams=False, alone=None):
    config = DiversityConfig(gamma=0.7, activation_weight=0.1, diversity_weight=1.0, samples=samples)
    alone = alone or [{"input_ids": torch.tensor([s])} for s in SEQUENCES]
    results = []
    for batches in (alone, [batch]):
        model.zero_grad()
        rows = rows_of(model, batches, config, two_streams)
        penalty = DiversityRegularizer(config)({"x": rows}, step=0).penalty
        penalty.backward()
        results.append((penalty, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (expected, expected_grads), (value, grads) = results
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    assert any(g.abs().max() > 1e-3 for g in expected_grads.values())
    assert_same(grads, expected_grads, rtol=1e-4, atol=1e-5)


def encoder():
    return tiny_transformer("BertForTokenClassification")


@pytest.mark.parametrize("samples", ["positions", "pooled", "first"])
def test_padding_of_an_encoder(samples):
    assert_same_regulariser(encoder(), padded(), samples)


@pytest.mark.parametrize("samples", ["positions", "pooled", "first"])
@pytest.mark.parametrize("how", ["position_ids", "blocks"])
def test_packed_sequences_of_a_decoder(samples, how):
    model = tiny_transformer("LlamaForCausalLM")
    more = {"position_ids": positions(), "use_cache": False}
    if how == "blocks":
        sequence = torch.tensor([i for i, s in enumerate(SEQUENCES) for _ in s])
        block = sequence.unsqueeze(0).eq(sequence.unsqueeze(1)).tril()
        more["attention_mask"] = block[None, None]
    assert_same_regulariser(model, packed(**more), samples)


def test_left_padding_of_a_decoder():
    batch = padded(left=True)
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    assert_same_regulariser(tiny_transformer("LlamaForCausalLM"), batch, "positions")


def test_padding_of_the_decoder_of_two_streams():
    model = tiny_transformer("BartForConditionalGeneration")
    source = torch.tensor([[5, 6, 7]])
    alone = [{"input_ids": source, "decoder_input_ids": torch.tensor([s])} for s in SEQUENCES]
    targets = padded()
    batch = {
        "input_ids": source.expand(3, -1), "decoder_input_ids": targets["input_ids"],
        "decoder_attention_mask": targets["attention_mask"],
    }  # fmt: skip
    assert_same_regulariser(model, batch, "positions", two_streams=True, alone=alone)


def test_four_dimensional_masks():
    keep = padded()["attention_mask"].bool()
    pairs = (keep.unsqueeze(1) & keep.unsqueeze(2)).unsqueeze(1)
    added = torch.zeros(pairs.shape).masked_fill(~pairs, torch.finfo(torch.float32).min)
    for mask in (pairs, pairs.long(), added, pairs[:, 0]):
        assert torch.equal(position_mask({"attention_mask": mask}, HEAD, False), keep)
    assert position_mask({"attention_mask": pairs[..., :3]}, HEAD, False) is None  # with a cache: not these positions


@pytest.mark.parametrize("key", ["cu_seq_lens_q", "cu_seqlens", "seq_idx", "position_ids"])
def test_every_way_to_say_packed(key):
    numbers = [1] * 5 + [2] * 2 + [3] * 3 + [0] * 2
    said = {
        "seq_idx": torch.tensor([numbers], dtype=torch.int32) - 1,
        "position_ids": positions(padding=2),
    }.get(key, torch.tensor([0, 5, 7, 10], dtype=torch.int32))
    inputs = {"input_ids": torch.ones(1, 12, dtype=torch.long), key: said}
    assert position_mask(inputs, HEAD, False).tolist() == [numbers]


def test_positions_flattened_into_the_first_axis():
    """As the experts of a mixture see them."""
    mask, target = padded()["attention_mask"].bool(), LayerTarget("router", nn.Linear(4, 4))
    activations = torch.randn(18, 4)
    rows = rows_by_layer({"router": [activations]}, [target], DiversityConfig(), {"router": mask})["router"]
    assert torch.equal(rows, activations[mask.flatten()])


PREFIXES = {
    "ViTForImageClassification": 1,
    "DeiTForImageClassificationWithTeacher": 2,
    "CLIPForImageClassification": 1,
}


@pytest.mark.parametrize("name", sorted(PREFIXES))
def test_prefix_tokens_of_transformers(name):
    assert count_prefix_tokens(tiny_transformer(name)) == PREFIXES[name]


def test_prefix_tokens_are_dropped():
    plain = tiny_timm("test_vit", reg_tokens=2)
    model = wrap_timm_model(plain, {"img_size": 32, "in_chans": 1, "reg_tokens": 2})
    batch = {"pixel_values": torch.randn(2, 1, 32, 32)}
    layers = ["timm_model.blocks.0"]
    every = rows_of(model, [batch], DiversityConfig(layers=layers))
    patches = rows_of(model, [batch], DiversityConfig(layers=layers, drop_prefix_tokens=True))
    assert torch.equal(patches, every.view(2, 7, -1)[:, 3:].flatten(0, 1))  # 4 patches after 1 class and 2 registers


def test_prefix_tokens_that_cannot_be_told():
    for model, said in ((tiny_bert(), "shows no"), (wrap_timm_model(tiny_timm("test_resnet")), "shows no")):
        with pytest.raises(ValueError, match=f"{said} class or register tokens.*drop_prefix_tokens=False"):
            find_layers(model, None, drop_prefix_tokens=True)


def test_unit_axis_can_be_set():
    target, maps = LayerTarget("act", nn.ReLU()), torch.randn(2, 4, 4, 4)
    for axis, expected in ((1, maps.mean((2, 3))), (-1, maps.mean((1, 2))), (3, maps.mean((1, 2)))):
        rows = rows_by_layer({"act": [maps]}, [target], DiversityConfig(unit_axis=axis), {})["act"]
        torch.testing.assert_close(rows, expected)
    for wrong, activations in ((4, maps), (2, maps[:, :, 0, 0])):
        with pytest.raises(ValueError, match=f"unit_axis is {wrong}.*layer 'act'.*unit_axis=None"):
            rows_by_layer({"act": [activations]}, [target], DiversityConfig(unit_axis=wrong), {})


def test_an_encoder_decoder_is_one_inside_its_wrappers():
    model = tiny_transformer("BartForConditionalGeneration")
    assert is_encoder_decoder(model) and is_encoder_decoder(nn.DataParallel(model))
    assert not is_encoder_decoder(tiny_bert()) and not is_encoder_decoder(nn.Linear(2, 2))
