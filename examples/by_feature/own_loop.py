"""The measures in a training loop of your own, without any trainer.

python examples/by_feature/own_loop.py
"""

import torch
from stand_ins import images
from torch import nn

from hf_diversity import functional


def main(diversity_weight: float = 3.0) -> list[float]:
    """Train a small network, and print the mean similarity of its hidden units on the way."""
    torch.manual_seed(0)
    data = images("train", 256)
    inputs = torch.stack([row["pixel_values"] for row in data]).flatten(1)
    labels = torch.tensor([row["labels"] for row in data])
    hidden = nn.Sequential(nn.Linear(784, 128), nn.ReLU())
    head = nn.Linear(128, 10)
    optimizer = torch.optim.Adam([*hidden.parameters(), *head.parameters()], lr=1e-3)
    similarities = []
    for step in range(31):
        activations = hidden(inputs)  # (samples, units)
        similarity = functional.direct(activations, gamma=2.0)  # logdet(...), det(...) likewise
        similarities.append(similarity.item())
        if step % 10 == 0:
            print(f"step {step}: mean similarity {similarities[-1]:.4f}")
        loss = nn.functional.cross_entropy(head(activations), labels)
        loss = loss + diversity_weight * similarity + 0.001 * functional.activation_norm(activations)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return similarities


if __name__ == "__main__":
    main()
