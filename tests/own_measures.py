"""Two measures that a user might register: without gamma and not linear, and with gamma and linear."""

import torch

from hf_diversity import register_measure


@register_measure("gram")
class Gram:
    """Mean squared cosine of two units,
    over all pairs.

    A second paragraph.
    """

    citation = "@misc{gram2026}"

    def statistic(self, activations):
        return activations.T @ activations / len(activations)

    def value(self, statistic):
        scale = statistic.diagonal().clamp(min=1e-12).rsqrt()
        off_diagonal = ~torch.eye(len(statistic), dtype=torch.bool)
        return (statistic * scale[:, None] * scale)[off_diagonal].square().mean()


@register_measure("laplacian")
class Laplacian:
    def statistic(self, activations, gamma):
        distances = (activations[:, :, None] - activations[:, None]).abs()
        return (-((2 * gamma) ** 0.5) * distances).exp().mean()

    def value(self, statistic):
        return statistic
