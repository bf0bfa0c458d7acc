"""Padded sound: the frames that padding makes are no samples."""

import pytest
import torch
from tiny import arguments
from torch import nn
from transformers import (
    HubertConfig,
    HubertForSequenceClassification,
    Speech2TextConfig,
    Speech2TextForConditionalGeneration,
    Trainer,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    WavLMConfig,
    WavLMForSequenceClassification,
)

from hf_diversity import DiversityConfig, DiversityTrainer, functional
from hf_diversity.capture import ActivationCapture
from hf_diversity.frames import frame_counter, frame_mask
from hf_diversity.layers import find_layers
from hf_diversity.masks import position_masks
from hf_diversity.samples import rows_by_layer

SIZE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 12,
    "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
    "classifier_proj_size": 8, "num_labels": 3,
    "feat_extract_norm": "layer",  # a group norm runs over padding too
    "do_stable_layer_norm": True, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0, "final_dropout": 0.0, "layerdrop": 0.0,
}  # fmt: skip
LENGTHS = (200, 470, 333)


def sounds(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=generator) for length in lengths]


def padded(parts):
    values = nn.utils.rnn.pad_sequence(parts, batch_first=True)
    mask = torch.stack([(torch.arange(values.shape[1]) < len(part)).long() for part in parts])
    return {"input_values": values, "attention_mask": mask}


def rows_of(model, batch, layer):
    config = DiversityConfig(layers=[layer])
    targets = find_layers(model, config.layers)
    capture = ActivationCapture(targets, model.eval())
    with torch.no_grad(), capture.armed() as store:
        model(**batch)
    masks = position_masks(batch, targets, model)
    return rows_by_layer(capture.take(store, False), targets, config, masks)[layer]


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (lambda: Wav2Vec2ForCTC(Wav2Vec2Config(**SIZE)), "wav2vec2.encoder.layers.1"),
        (lambda: Wav2Vec2ForCTC(Wav2Vec2Config(**SIZE)), "wav2vec2.feature_projection.layer_norm"),
        (lambda: Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SIZE)), "wav2vec2.encoder.layer_norm"),
        (lambda: HubertForSequenceClassification(HubertConfig(**SIZE)), "hubert.encoder.layers.0"),
        (lambda: WavLMForSequenceClassification(WavLMConfig(**SIZE, num_buckets=8)), "wavlm.encoder.layers.1"),
    ],
    ids=["wav2vec2", "wav2vec2 projection", "wav2vec2 classifier", "hubert", "wavlm"],
)
def test_rows_of_a_padded_batch_are_those_of_each_sound_alone(model, layer):
    torch.manual_seed(0)
    model = model()
    parts = sounds()
    together = rows_of(model, padded(parts), layer)
    alone = torch.cat([rows_of(model, padded([part]), layer) for part in parts])
    assert len(alone) < 3 * rows_of(model, padded(parts[1:2]), layer).shape[0]  # there is padding
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    first, second = (functional.direct(rows, gamma=0.5) for rows in (together, alone))
    assert float(first) == pytest.approx(float(second), rel=1e-6)


def test_an_adapter_makes_frames_of_a_second_length():
    torch.manual_seed(0)
    config = Wav2Vec2Config(**SIZE, add_adapter=True, num_adapter_layers=2, output_hidden_size=16)
    model = Wav2Vec2ForCTC(config)
    parts = sounds()
    before, behind = (
        rows_of(model, padded(parts), name) for name in ("wav2vec2.encoder.layers.1", "wav2vec2.adapter")
    )
    counts = [[rows_of(model, padded([part]), "wav2vec2.encoder.layers.1").shape[0] for part in parts]]
    counts.append([rows_of(model, padded([part]), "wav2vec2.adapter").shape[0] for part in parts])
    assert (len(before), len(behind)) == tuple(map(sum, counts)) and len(behind) < len(before)


def test_the_encoder_of_a_speech_translator():
    torch.manual_seed(0)
    model = Speech2TextForConditionalGeneration(
        Speech2TextConfig(
            vocab_size=20, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, input_feat_per_channel=8,
            conv_channels=16, max_source_positions=200, max_target_positions=20, dropout=0.0, attention_dropout=0.0,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 60, 8, generator=generator)
    mask = torch.stack([torch.arange(60) < n for n in (31, 60)]).long()
    batch = {"input_features": features * mask[..., None], "attention_mask": mask}
    batch["decoder_input_ids"] = torch.ones(2, 3, dtype=torch.long)
    rows = rows_of(model, batch, "model.encoder.layers.1")
    assert len(rows) == int(model._get_feat_extract_output_lengths(mask.sum(1)).sum()) == 8 + 15


def test_frames_of_another_length_have_no_mask():
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**SIZE))
    mask = padded(sounds())["attention_mask"]
    count = frame_counter(model)
    assert frame_mask(mask, 93, count) is None
    assert frame_mask(mask, 46, count).sum(1).tolist() == [19, 46, 32]
    assert frame_counter(nn.Linear(3, 3)) is None


class Sounds(torch.utils.data.Dataset):
    def __init__(self, lengths):
        self.parts = sounds(lengths)

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return {"sound": self.parts[index], "labels": index % 3}


def collate(items):
    return {**padded([item["sound"] for item in items]), "labels": torch.tensor([item["labels"] for item in items])}


def test_training_and_evaluation_leave_padding_out(tmp_path):
    torch.manual_seed(0)
    model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SIZE))
    data = Sounds((200, 470, 333, 260))
    config = DiversityConfig(layers=["wav2vec2.encoder.layers.1"], gamma=0.5)
    values = []
    for size in (1, 4):  # one by one nothing is padded
        trainer = DiversityTrainer(
            model,
            arguments(tmp_path, per_device_eval_batch_size=size, per_device_train_batch_size=4, max_steps=1,
                      remove_unused_columns=False, learning_rate=0.0, logging_steps=1),
            train_dataset=data, eval_dataset=data, data_collator=collate, diversity=config,
        )  # fmt: skip
        assert isinstance(trainer, Trainer)
        values.append(trainer.evaluate()["eval_diversity"])
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    trainer.train()
    logged = next(record["diversity"] for record in trainer.state.log_history if "diversity" in record)
    assert logged == pytest.approx(values[0], rel=1e-5)
