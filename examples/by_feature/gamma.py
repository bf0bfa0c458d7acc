"""The sharpness of the similarity: a fixed gamma, one that follows the activations, and no pull on their scale.

python examples/by_feature/gamma.py
"""

from stand_ins import arguments, images, vision_transformer

from hf_diversity import DiversityConfig, DiversityTrainer

CHOICES = {
    "fixed": DiversityConfig(diversity_weight=3.0, gamma=2.0, activation_weight=0.003),  # the paper's form
    "median": DiversityConfig(diversity_weight=3.0, gamma="median"),  # 1 / (2 m^2), m the units' median distance
    "scale-invariant": DiversityConfig(diversity_weight=3.0, gamma="median", scale_invariant=True),
}


def main() -> dict[str, dict[str, float]]:
    """Train with each, and print gamma, J at this gamma, and the mean squared norm of held-out images."""
    found = {}
    for name, diversity in CHOICES.items():
        trainer = DiversityTrainer(
            model=vision_transformer(), args=arguments("gamma", max_steps=20), train_dataset=images("train", 320),
            eval_dataset=images("test", 100), diversity=diversity,
        )  # fmt: skip
        trainer.train()
        found[name] = trainer.evaluate()
    for name, metrics in found.items():
        print(name, {key: metrics[f"eval_{key}"] for key in ("gamma", "diversity", "activation_norm")})
    return found


if __name__ == "__main__":
    main()
