"""LoRA by PEFT: layers keep the base model's names, and the regulariser trains the adapter alone.

python examples/by_feature/peft_lora.py
"""

from peft import LoraConfig, get_peft_model
from stand_ins import arguments, rated_sentences, text_classifier

from hf_diversity import DiversityConfig, DiversityTrainer


def main() -> DiversityTrainer:
    """Train the adapter, save it, and print what was trained."""
    lora = LoraConfig(r=4, target_modules=["query", "value"], modules_to_save=["classifier"])
    model = get_peft_model(text_classifier(), lora)
    model.print_trainable_parameters()
    trainer = DiversityTrainer(
        model=model,
        args=arguments("peft_lora"),
        train_dataset=rated_sentences(320),
        diversity=DiversityConfig(layers=["bert.encoder.layer.1.output"]),  # as in the model without the adapter
    )
    trainer.train()
    trainer.save_model()  # adapter_config.json and adapter_model.safetensors, as PEFT reads them
    last = [record for record in trainer.state.log_history if "task_loss" in record][-1]
    print({name: last[name] for name in ("loss", "task_loss", "diversity")})
    return trainer


if __name__ == "__main__":
    main()
