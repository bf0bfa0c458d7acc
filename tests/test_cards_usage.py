"""The code that a trainer's card shows: it is run, and predicts where the task is known."""

import pytest
from PIL import Image
from tiny import Mlp, tiny_bert, tiny_timm
from tiny_text import tiny_llama, tokenizer

from hf_diversity.cards.usage import usage_code
from hf_diversity.timm_models import wrap_timm_model


def execute(code, folder):
    """Run the code, and give what it prints."""
    printed = []
    exec(code.replace("picture.png", f"{folder}/picture.png"), {"print": printed.append})
    return printed


def test_text(tmp_path):
    for name, (model, found) in {
        "classes": (tiny_bert(), "score"),
        "causal": (tiny_llama(), "generated_text"),
    }.items():
        folder = tmp_path / name
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        [[answer]] = execute(usage_code(model, tokenizer(), str(folder)), folder)
        assert found in answer


def test_image(tmp_path):
    model = wrap_timm_model(tiny_timm("test_vit", in_chans=3, img_size=32))
    model.save_pretrained(tmp_path)
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    [answers] = execute(usage_code(model, None, str(tmp_path)), tmp_path)
    assert len(answers) == 4 and all("score" in answer for answer in answers)


def test_without_a_tokenizer_it_loads_and_no_more(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    code = usage_code(tiny_bert(), None, str(tmp_path))
    assert execute(code, tmp_path) == [] and "BertForSequenceClassification.from_pretrained" in code


def test_a_module_that_transformers_does_not_know_has_none():
    assert usage_code(Mlp(), None, ".") == ""


@pytest.mark.parametrize("source", ["it's", 'a"b', "a\\b"])
def test_any_name_is_a_string_of_python(source):
    compile(usage_code(tiny_bert(), None, source), "card", "exec")
