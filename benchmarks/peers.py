"""What Direct is measured against, each in its usual form: (N, D) activations in, a differentiable scalar out."""

import torch


def naive(activations, gamma):
    """Broadcasting: N x D x D numbers, several times."""
    difference = activations[:, :, None] - activations[:, None, :]
    similarity = torch.exp(-gamma * difference**2).mean(0)
    return similarity.sum() - similarity.trace()


def naive_similarity(activations, gamma):
    """S by broadcasting."""
    return torch.exp(-gamma * (activations[:, :, None] - activations[:, None, :]) ** 2).mean(0)


def naive_logdet(activations, gamma, jitter=1e-4):
    """-log det by broadcasting, Cholesky in float64 and autograd."""
    similarity = naive_similarity(activations, gamma).double()
    factor = torch.linalg.cholesky(similarity + jitter * torch.eye(len(similarity), dtype=torch.float64))
    return -2 * factor.diagonal().log().sum()


def row_loop(activations, gamma):
    """One sample at a time, everything left to autograd."""
    total = 0
    for row in activations:
        total = total + torch.exp(-gamma * (row[:, None] - row[None, :]) ** 2).sum()
    return total / len(activations) - activations.shape[1]


class _ExactTiles(torch.autograd.Function):
    @staticmethod
    def forward(ctx, activations, gamma):
        total, gradient = 0.0, torch.empty_like(activations)
        for i, row in enumerate(activations):
            for start in range(0, len(row), 128):
                difference = row[start : start + 128, None] - row[None, :]
                similar = torch.exp(difference.square().mul_(-gamma))
                total += similar.sum()
                gradient[i, start : start + 128] = similar.mul_(difference).sum(1)
        ctx.save_for_backward(gradient.mul_(-4 * gamma / len(activations)))
        return total / len(activations) - activations.shape[1]

    @staticmethod
    def backward(ctx, upstream):
        return ctx.saved_tensors[0] * upstream, None


def exact_tiles(activations, gamma):
    """Blocks of 128 units against all others, torch.exp, analytic gradient."""
    return _ExactTiles.apply(activations, gamma)


def decov(activations):
    """DeCov (Cogswell et al. 2016) through the D x D covariance."""
    centred = activations - activations.mean(0)
    covariance = centred.T @ centred / len(activations)
    return 0.5 * (covariance.square().sum() - covariance.diagonal().square().sum())


def decov_gram(activations):
    """DeCov through the N x N Gram matrix: ||C||_F = ||X X^T||_F / N. The cheaper form where N < D."""
    centred = activations - activations.mean(0)
    gram = centred @ centred.T / len(activations)
    variance = centred.square().mean(0)
    return 0.5 * (gram.square().sum() - variance.square().sum())


def vicreg_covariance(activations):
    """The covariance term of VICReg (Bardes et al. 2022): squared off-diagonal entries over D."""
    centred = activations - activations.mean(0)
    covariance = centred.T @ centred / (len(activations) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / activations.shape[1]
