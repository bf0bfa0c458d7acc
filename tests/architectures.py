"""transformers classes of every kind from tiny configurations."""

import transformers

_BERT = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
_LLAMA = {**_BERT, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
_BART = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "eos_token_id": 2,
    "bos_token_id": 0, "pad_token_id": 1, "decoder_start_token_id": 2,
}  # fmt: skip
_T5 = {
    "vocab_size": 40, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 1, "num_heads": 2, "eos_token_id": 1,
    "decoder_start_token_id": 0,
}  # fmt: skip
_GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "pad_token_id": 0}
_VIT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32, "patch_size": 4}
_TOWERS = {"text_config": {**_BERT, "eos_token_id": 2}, "vision_config": _VIT, "projection_dim": 8}
_SOUND = {
    **_BERT, "conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2,
}  # fmt: skip


def _of(config, arguments, *classes, **more):
    return {name: {"config": config, "arguments": arguments, **more} for name in classes}


CLASSES = {
    # sequence, token, span and choice classification
    **_of("BertConfig", _BERT, "BertForSequenceClassification", "BertForTokenClassification",
          "BertForQuestionAnswering", "BertForMaskedLM", "BertForNextSentencePrediction", "BertForPreTraining",
          "BertLMHeadModel"),
    **_of("RobertaConfig", _BERT, "RobertaForSequenceClassification", "RobertaForTokenClassification",
          "RobertaForMaskedLM"),
    **_of("DistilBertConfig", {"vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
          "DistilBertForSequenceClassification", "DistilBertForMaskedLM", "DistilBertForTokenClassification"),
    **_of("AlbertConfig", {**_BERT, "embedding_size": 8}, "AlbertForSequenceClassification", "AlbertForMaskedLM"),
    **_of("ElectraConfig", {**_BERT, "embedding_size": 8}, "ElectraForSequenceClassification",
          "ElectraForPreTraining", "ElectraForMaskedLM"),
    **_of("DebertaV2Config", _BERT, "DebertaV2ForSequenceClassification"),
    **_of("FNetConfig", {k: v for k, v in _BERT.items() if "attention" not in k}, "FNetForSequenceClassification"),
    **_of("ModernBertConfig", {**_BERT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
                               "sep_token_id": 2}, "ModernBertForSequenceClassification", "ModernBertForMaskedLM"),
    # causal language models, and classifiers over them
    **_of("LlamaConfig", _LLAMA, "LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaForQuestionAnswering"),
    **_of("MistralConfig", _LLAMA, "MistralForCausalLM"),
    **_of("Qwen2Config", {**_LLAMA, "tie_word_embeddings": True}, "Qwen2ForCausalLM"),
    **_of("GPT2Config", _GPT2, "GPT2LMHeadModel", "GPT2ForSequenceClassification", "GPT2ForTokenClassification"),
    **_of("GPTNeoXConfig", _BERT, "GPTNeoXForCausalLM"),
    **_of("OPTConfig", {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "ffn_dim": 24, "word_embed_proj_dim": 16}, "OPTForCausalLM"),
    # encoder-decoder models
    **_of("BartConfig", _BART, "BartForConditionalGeneration", "BartForCausalLM", "BartForQuestionAnswering"),
    **_of("MarianConfig", {**_BART, "pad_token_id": 39}, "MarianMTModel"),
    **_of("T5Config", _T5, "T5ForConditionalGeneration", "T5ForTokenClassification"),
    **_of("WhisperConfig", {**_BART, "num_mel_bins": 8, "max_source_positions": 16}, "WhisperForAudioClassification",
          "WhisperForConditionalGeneration"),
    # images
    **_of("ViTConfig", _VIT, "ViTForImageClassification"),
    **_of("DeiTConfig", _VIT, "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
    **_of("Dinov2Config", _VIT, "Dinov2ForImageClassification"),
    **_of("BeitConfig", _VIT, "BeitForImageClassification"),
    **_of("ResNetConfig", {"embedding_size": 8, **_STAGES}, "ResNetForImageClassification"),
    **_of("ConvNextConfig", {**_STAGES, "num_stages": 2, "image_size": 32}, "ConvNextForImageClassification"),
    **_of("SwinConfig", _SWIN, "SwinForImageClassification"),
    **_of("MobileNetV2Config", {"image_size": 32}, "MobileNetV2ForImageClassification"),
    **_of("RegNetConfig", {"embedding_size": 8, **_STAGES, "groups_width": 8}, "RegNetForImageClassification"),
    # two towers, and classifiers over one of them
    **_of("CLIPConfig", _TOWERS, "CLIPModel", "CLIPForImageClassification"),
    **_of("SiglipConfig", {"text_config": _BERT, "vision_config": _VIT}, "SiglipForImageClassification"),
    # sound
    **_of("ASTConfig", {**_VIT, "num_mel_bins": 16, "max_length": 32, "frequency_stride": 8, "time_stride": 8},
          "ASTForAudioClassification"),
    **_of("Wav2Vec2BertConfig", {**_BERT, "feature_projection_input_dim": 8}, "Wav2Vec2BertForSequenceClassification"),
    **_of("Wav2Vec2Config", _SOUND, "Wav2Vec2ForSequenceClassification", length=400),
    **_of("HubertConfig", _SOUND, "HubertForSequenceClassification", length=400),
}  # fmt: skip


def tiny_transformer(name):
    """On the CPU, since many forward passes look at numbers."""
    how = CLASSES[name]
    arguments = dict(how["arguments"])
    if "QuestionAnswering" not in name:
        arguments["num_labels"] = 7
    config = getattr(transformers, how["config"])(**arguments)
    return getattr(transformers, name)(config).eval()
