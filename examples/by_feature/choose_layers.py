"""Look at a model's layers, and regularise several of them by names and patterns.

python examples/by_feature/choose_layers.py

On the command line, for a timm name, a Hub id or a folder: hf-diversity layers MODEL
"""

from stand_ins import arguments, rated_sentences, text_classifier

from hf_diversity import DiversityConfig, DiversityTrainer, inspect_layers


def main() -> DiversityTrainer:
    """Print the layers, train, and print the diversity of those that were chosen."""
    model = text_classifier()
    print(inspect_layers(model, batch_size=32))  # * marks what layers=None takes

    # * stays within a dotted part of a name, ** crosses dots
    diversity = DiversityConfig(layers=["bert.encoder.layer.*", "**.intermediate"])
    trainer = DiversityTrainer(
        model=model, args=arguments("choose_layers"), train_dataset=rated_sentences(320), diversity=diversity
    )
    trainer.train()
    last = [record for record in trainer.state.log_history if "diversity" in record][-1]
    print({name: value for name, value in last.items() if name.startswith("diversity")})  # the sum, and each layer's
    return trainer


if __name__ == "__main__":
    main()
