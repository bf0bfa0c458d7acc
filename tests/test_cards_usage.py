"""The code that a trainer's card shows: it is run, and predicts where the task is known."""

from PIL import Image
from tiny import Mlp, tiny_bert, tiny_timm
from tiny_text import tiny_llama, tokenizer

from hf_diversity.cards.usage import usage_code
from hf_diversity.publishing.commit import HERE
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
        [[answer]] = execute(usage_code(model, tokenizer(), repr(str(folder))), folder)
        assert found in answer


def test_image(tmp_path):
    model = wrap_timm_model(tiny_timm("test_vit", in_chans=3, img_size=32))
    model.save_pretrained(tmp_path)
    Image.new("RGB", (40, 32)).save(tmp_path / "picture.png")
    assert execute(usage_code(model, None, repr(str(tmp_path))), tmp_path)[0].startswith("LABEL_")
    assert "processor" not in usage_code(wrap_timm_model(tiny_timm("test_resnet", in_chans=1)), None, HERE)


def test_without_a_tokenizer_it_loads_and_no_more(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    code = usage_code(tiny_bert(), None, repr(str(tmp_path)))
    assert execute(code, tmp_path) == [] and "BertForSequenceClassification.from_pretrained" in code


def test_a_module_that_transformers_does_not_know_has_none():
    assert usage_code(Mlp(), None, ".") == ""
