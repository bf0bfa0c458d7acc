"""Every public method and argument of Trainer, by inspection: what a new version of transformers adds is noticed."""

import inspect

import pytest
import torch
from tiny import Mlp, Rows, arguments
from transformers import DefaultDataCollator, Seq2SeqTrainer, Trainer, TrainerCallback

from hf_diversity import DiversityConfig, DiversitySeq2SeqTrainer, DiversityTrainer

PAIRS = [(Trainer, DiversityTrainer), (Seq2SeqTrainer, DiversitySeq2SeqTrainer)]


def shape_of(function):
    """Names, kinds and defaults; annotations may differ."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("base", "ours"), PAIRS)
def test_every_method_takes_what_the_base_class_takes(base, ours):
    names = [name for name, value in inspect.getmembers(base, callable) if not name.startswith("__")]
    assert {"train", "evaluate", "predict", "compute_loss", "_inner_training_loop"} <= set(names)
    for name in names:
        assert shape_of(getattr(ours, name)) == shape_of(getattr(base, name)), name


@pytest.mark.parametrize(("base", "ours"), PAIRS)
def test_nothing_of_ours_has_a_public_name_that_the_base_class_lacks(base, ours):
    """A method of a later Trainer, or of a user's subclass, cannot be hidden by one of ours."""
    assert {name for name in set(dir(ours)) - set(dir(base)) if not name.startswith("_")} == set()


class Idle(TrainerCallback):
    pass


def every_argument(folder):
    model, args = Mlp(), arguments(folder)
    args.include_for_metrics = ["loss"]
    return {
        "model": model, "args": args, "data_collator": DefaultDataCollator(), "train_dataset": Rows(),
        "eval_dataset": Rows(8), "processing_class": None, "model_init": None,
        "compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs["logits"].sum(),
        "compute_metrics": lambda prediction: {}, "callbacks": [Idle()],
        "optimizers": (torch.optim.SGD(model.parameters(), lr=0.1), None), "optimizer_cls_and_kwargs": None,
        "preprocess_logits_for_metrics": lambda logits, labels: logits,
    }  # fmt: skip


@pytest.mark.parametrize("how", ["positional", "keywords"])
def test_every_argument_of_trainer_arrives(tmp_path, how):
    given = every_argument(tmp_path)
    names = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
    assert names == list(given), "Trainer takes other arguments than it did: add them here, and look what they do"
    config = DiversityConfig(gamma=0.7)
    if how == "positional":
        trainer = DiversityTrainer(*given.values(), diversity=config)
    else:
        trainer = DiversityTrainer(**given, diversity=config)
    for name in set(names) - {"callbacks", "optimizers", "optimizer_cls_and_kwargs"}:
        assert getattr(trainer, name) is given[name], name
    assert trainer.optimizer is given["optimizers"][0]
    assert given["callbacks"][0] in trainer.callback_handler.callbacks
    assert trainer.diversity is config


def test_diversity_is_never_taken_from_a_position(tmp_path):
    with pytest.raises(TypeError, match="positional argument"):
        DiversityTrainer(*every_argument(tmp_path).values(), DiversityConfig())
