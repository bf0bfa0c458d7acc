"""What users of Trainer rely on, as scenarios that run with any trainer."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from parity import comparable
from tiny import Mlp, Rows, Sentences, tiny_bert
from torch import nn
from torch.utils.data import IterableDataset
from transformers import DefaultFlowCallback, EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import EvalPrediction

BEST = {
    "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
    "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
}  # fmt: skip


def accuracy(prediction: EvalPrediction):
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


# ---- scenarios: each takes the class and a builder of trainers, and returns what is to be compared


def train_evaluate_and_save(base, build):
    args = {
        "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "logging_steps": 2,
        "logging_first_step": True, "eval_on_start": True, "save_total_limit": 1,
    }  # fmt: skip
    trainer = build(args=args)
    return trainer.train()


def by_epochs(base, build):
    args = {"max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": "epoch",
            "logging_strategy": "epoch", "dataloader_drop_last": True}  # fmt: skip
    return build(args=args, train_dataset=Rows(15)).train()


def evaluate_and_predict_before_training(base, build):
    trainer = build(train_dataset=None)
    predicted = trainer.predict(Rows(6, seed=7), metric_key_prefix="final")
    unlabelled = trainer.predict([{"x": row["x"]} for row in Rows(6)])
    return trainer.evaluate(), trainer.evaluate(Rows(6, seed=8), metric_key_prefix="other"), predicted, unlabelled


def train_twice(base, build):
    trainer = build()
    return trainer.train(), trainer.evaluate(), trainer.train()


def metrics_and_preprocessed_logits(base, build):
    def metrics(prediction):
        return {"mean": float(prediction.predictions.mean()), "inputs": float(np.sum(prediction.inputs)),
                "losses": float(np.sum(prediction.losses))}  # fmt: skip

    model = Mlp()
    model.main_input_name = "x"
    trainer = build(
        model=model, compute_metrics=metrics,
        preprocess_logits_for_metrics=lambda logits, labels: logits.softmax(-1) * 2,
        args={"eval_strategy": "steps", "eval_steps": 2, "include_for_metrics": ["inputs", "loss"]},
    )  # fmt: skip
    return trainer.train(), trainer.evaluate(), trainer.predict(Rows(6))


def metrics_batch_by_batch(base, build):
    seen = []

    def metrics(prediction, compute_result):
        seen.append(prediction.predictions.argmax(-1) == prediction.label_ids)
        return {"accuracy": torch.cat(seen).float().mean().item()} if compute_result else {}

    trainer = build(compute_metrics=metrics, args={"batch_eval_metrics": True})
    return trainer.evaluate(), len(seen)


def evaluation_within_metrics(base, build):
    inner = []

    def metrics(prediction):
        if len(inner) < 1:
            inner.append(None)
            inner[0] = trainer.evaluate(Rows(4, seed=9), metric_key_prefix="inner"), trainer.predict(Rows(4, seed=9))
        return accuracy(prediction)

    trainer = build(compute_metrics=metrics, args={"eval_strategy": "steps", "eval_steps": 2})
    return trainer.train(), trainer.evaluate(), inner


def own_loss_function(base, build):
    def loss(outputs, labels, num_items_in_batch=None):
        return nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    trainer = build(compute_loss_func=loss, args={"gradient_accumulation_steps": 2})
    return trainer.train(), trainer.evaluate()


def own_optimizer_and_scheduler(base, build):
    model = Mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    trainer = build(model=model, optimizers=(optimizer, scheduler))
    output = trainer.train()
    assert optimizer.state  # and it is the one that was used
    return output, trainer.get_learning_rates()


def optimizer_class(base, build):
    trainer = build(optimizer_cls_and_kwargs=(torch.optim.Adagrad, {"lr": 0.05}))
    return trainer.train(), type(getattr(trainer.optimizer, "optimizer", trainer.optimizer)).__name__


def several_evaluation_sets(base, build):
    trainer = build(
        eval_dataset={"a": Rows(8), "b": Rows(6, seed=4)}, args={"eval_strategy": "steps", "eval_steps": 2},
        compute_metrics=accuracy,
    )  # fmt: skip
    return trainer.train(), trainer.evaluate(), trainer.evaluate({"c": Rows(4)}), trainer.evaluate("a")


class Stream(IterableDataset):
    def __iter__(self):
        yield from (Rows(16)[i] for i in range(16))


def stream_of_examples(base, build):
    trainer = build(train_dataset=Stream(), eval_dataset=Stream(), args={"max_steps": 6})
    return trainer.train(), trainer.evaluate()


def errors_of_missing_arguments(base, build):
    def error(function):
        with pytest.raises((ValueError, TypeError, RuntimeError)) as raised:
            function()
        return raised.value

    trainer = build(eval_dataset=None, train_dataset=None)
    return [
        error(trainer.evaluate),
        error(trainer.train),
        error(lambda: build(model=None)),
        error(lambda: build(eval_dataset=None, args={"eval_strategy": "steps", "eval_steps": 1})),
        error(lambda: build(train_dataset=Stream(), args={"max_steps": -1}).train()),
        error(trainer.hyperparameter_search),
        error(lambda: build(nonsense=1)),
    ]


def no_evaluation_set(base, build):
    return build(eval_dataset=None).train()


def early_stopping(base, build):
    trainer = build(
        args={**BEST, "max_steps": 8, "greater_is_better": True},
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    output = trainer.train()
    return output, trainer.state.best_metric is not None, trainer.state.global_step < 8


def label_smoothing(base, build):
    trainer = build(model=tiny_bert(), train_dataset=Sentences(), eval_dataset=Sentences(8, seed=5),
                    args={"label_smoothing_factor": 0.2})  # fmt: skip
    return trainer.train(), trainer.evaluate()


def text_with_all_sorts(base, build):
    args = {
        "gradient_accumulation_steps": 2, "neftune_noise_alpha": 5.0, "torch_empty_cache_steps": 1, "warmup_steps": 1,
        "max_grad_norm": 0.5, "optim": "adamw_torch", "lr_scheduler_type": "cosine", "weight_decay": 0.1,
        "include_num_input_tokens_seen": "all", "average_tokens_across_devices": False,
    }  # fmt: skip
    data = Dataset.from_list([{k: v.tolist() for k, v in row.items()} | {"unused": "text"} for row in Sentences()])
    trainer = build(model=tiny_bert(dropout=0.1), train_dataset=data, eval_dataset=data, args=args)
    return trainer.train(), trainer.evaluate()


def gradient_checkpointing_in_bfloat16(base, build):
    args = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}, "bf16": True}
    trainer = build(model=tiny_bert(dropout=0.1), train_dataset=Sentences(), eval_dataset=Sentences(8), args=args)
    return trainer.train(), trainer.evaluate()


def ignored_keys_and_prediction_step(base, build):
    class Wordy(Mlp):
        def forward(self, x, labels=None):
            return {**super().forward(x, labels), "secret": x * 3, "other": x.sum(-1)}

    trainer = build(model=Wordy(), args={"eval_strategy": "steps", "eval_steps": 2})
    output = trainer.train(ignore_keys_for_eval=["secret"])
    batch = trainer.data_collator([Rows()[i] for i in range(3)])
    shapes = [
        comparable(trainer.prediction_step(trainer.model, dict(batch), loss_only, ignore_keys=keys))
        for loss_only, keys in ((False, ["secret"]), (False, None), (True, None))
    ]
    return output, trainer.predict(Rows(4), ignore_keys=["secret", "other"]), trainer.evaluate(ignore_keys=[]), shapes


def prediction_loss_only(base, build):
    trainer = build(args={"prediction_loss_only": True, "eval_accumulation_steps": 1, "eval_do_concat_batches": False})
    loop = trainer.evaluation_loop(trainer.get_eval_dataloader(), "Evaluation", metric_key_prefix="x")
    return trainer.evaluate(), trainer.predict(Rows(6)), loop.num_samples


def callbacks_that_come_go_and_command(base, build):
    class Commander(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_log, control.should_evaluate, control.should_save = (
                state.global_step == n for n in (1, 2, 3)
            )
            control.should_training_stop = state.global_step == 3
            return control

    trainer = build(callbacks=[Commander], args={"logging_steps": 50})
    trainer.remove_callback(DefaultFlowCallback)
    popped = trainer.pop_callback(DefaultFlowCallback)
    trainer.add_callback(EarlyStoppingCallback())
    removed = trainer.pop_callback(EarlyStoppingCallback)
    return trainer.train(), popped, type(removed).__name__


def resumed(base, build):
    args = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "max_steps": 4}
    build(args={**args, "max_steps": 2}).train()
    torch.manual_seed(99)
    return build(args=args).train(resume_from_checkpoint=True)


def model_from_init(base, build):
    trainer = build(model=None, model_init=lambda: Mlp(seed=4))
    return trainer.train(), trainer.evaluate(), trainer.train()


def batch_size_found(base, build):
    class Big(Mlp):
        def forward(self, x, labels=None):
            if len(x) > 4:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x, labels)

    trainer = build(model=Big(), args={"auto_find_batch_size": True, "per_device_train_batch_size": 5})
    return trainer.train(), trainer.state.train_batch_size


def search(base, build):
    trainer = build(model=None, model_init=lambda trial: Mlp(), compute_metrics=accuracy,
                    args={"eval_strategy": "epoch", "max_steps": -1, "num_train_epochs": 1})  # fmt: skip
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [0.2])},
        compute_objective=lambda metrics: 1 - metrics["eval_accuracy"], n_trials=1, direction="maximize",
        backend="optuna", hp_name=lambda trial: f"trial {trial.number}",
    )  # fmt: skip
    return best.run_id, best.objective, best.hyperparameters


def own_methods(base, build):
    calls = []

    class Mine(base):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            calls.append("compute_loss")
            return (2 * loss, outputs) if return_outputs else 2 * loss

        def training_step(self, model, inputs, num_items_in_batch=None):
            calls.append("training_step")
            return super().training_step(model, inputs, num_items_in_batch)

        def create_optimizer(self, *args, **kwargs):
            self.optimizer = torch.optim.SGD(self.model.fc2.parameters(), lr=0.3)
            calls.append("create_optimizer")
            return self.optimizer

        def get_train_dataloader(self):
            calls.append("get_train_dataloader")
            return torch.utils.data.DataLoader(self.train_dataset, batch_size=8, collate_fn=self.data_collator)

        def log(self, logs, start_time=None):
            calls.append("log")
            super().log({**logs, "mine": 1}, start_time)

        def evaluation_loop(self, *args, **kwargs):
            calls.append("evaluation_loop")
            return super().evaluation_loop(*args, **kwargs)

        def _save_checkpoint(self, model, trial):
            calls.append("_save_checkpoint")
            return super()._save_checkpoint(model, trial)

    trainer = build(Mine, args={"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2})
    return trainer.train(), trainer.evaluate(), calls


def small_public_methods(base, build):
    trainer = build(model=tiny_bert(), train_dataset=Sentences(), eval_dataset=Sentences(8))
    output = trainer.train()
    loader, batch = trainer.get_train_dataloader(), next(iter(trainer.get_test_dataloader(Sentences(4))))
    trainer.log({"mine": 0.5})
    trainer.log_metrics("train", dict(output.metrics))
    trainer.save_metrics("train", {"fixed": 1.0})
    trainer.save_state()
    trainer.save_model()
    trainer.create_model_card(model_name="card", tags=["one"])
    trainer.store_flos()
    return [
        trainer.get_num_trainable_parameters(), trainer.get_learning_rates(), trainer.num_examples(loader),
        trainer.floating_point_ops(batch), trainer.is_world_process_zero(), trainer.is_local_process_zero(),
        trainer.get_decay_parameter_names(trainer.model), len(trainer.get_optimizer_group()),
        trainer.get_total_train_batch_size(trainer.args),
        trainer.get_tp_size(), trainer.get_cp_size(),
        trainer.get_optimizer_cls_and_kwargs(trainer.args)[0].__name__,
        trainer.compute_loss(trainer.model.eval(), batch),
    ]  # fmt: skip


SCENARIOS = [
    train_evaluate_and_save, by_epochs, evaluate_and_predict_before_training, train_twice,
    metrics_and_preprocessed_logits, metrics_batch_by_batch, evaluation_within_metrics, own_loss_function,
    own_optimizer_and_scheduler, optimizer_class, several_evaluation_sets, stream_of_examples,
    errors_of_missing_arguments, no_evaluation_set, early_stopping, label_smoothing, text_with_all_sorts,
    gradient_checkpointing_in_bfloat16, ignored_keys_and_prediction_step, prediction_loss_only,
    callbacks_that_come_go_and_command, resumed, model_from_init, batch_size_found, search, own_methods,
    small_public_methods,
]  # fmt: skip
UNTRAINED = {
    evaluate_and_predict_before_training, metrics_batch_by_batch, errors_of_missing_arguments, prediction_loss_only,
    search,
}  # fmt: skip
