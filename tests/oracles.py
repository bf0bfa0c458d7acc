"""What the measures must be, in float64 NumPy with plain loops. Shares no code with hf_diversity, nor any of its
methods."""

import numpy as np


def similarity(activations, gamma):
    """S, entry by entry over units; activations (N, D)."""
    a = np.asarray(activations, dtype=np.float64)
    units = a.shape[1]
    result = np.zeros((units, units))
    for n in range(units):
        for m in range(units):
            result[n, m] = np.mean([np.exp(-gamma * (row[n] - row[m]) ** 2) for row in a])
    return result


def similarity_gradient(activations, gamma, upstream):
    """Gradient of sum_nm upstream_nm s_nm, term by term: ds_nm/da_in = -2 gamma (a_in - a_im) e / N = -ds_nm/da_im."""
    a = np.asarray(activations, dtype=np.float64)
    samples, units = a.shape
    gradient = np.zeros_like(a)
    for i in range(samples):
        for n in range(units):
            for m in range(units):
                d = a[i, n] - a[i, m]
                slope = -2 * gamma * d * np.exp(-gamma * d * d) / samples
                gradient[i, n] += upstream[n, m] * slope
                gradient[i, m] -= upstream[n, m] * slope
    return gradient


def pair_sum(activations, gamma):
    """sum_{n != m} s_nm and its gradient, one unit against all others at a time: for sizes where three loops take
    hours."""
    a = np.asarray(activations, dtype=np.float64)
    samples, units = a.shape
    total, gradient = 0.0, np.zeros_like(a)
    for n in range(units):
        d = a[:, n : n + 1] - a
        exponent = -gamma * d * d
        e = np.exp(np.maximum(exponent, -700.0))  # NumPy is slow where exp underflows; exp(-700) = 1e-304 is 0 here
        e[:, n] = 0.0
        total += e.sum()
        gradient[:, n] = -4 * gamma * (d * e).sum(axis=1)
    return total / samples, gradient / samples


def log_det(similarity_matrix, jitter):
    """log det(S + jitter I) by Gaussian elimination without pivoting (S + jitter I is positive definite)."""
    m = np.array(similarity_matrix, dtype=np.float64) + jitter * np.eye(len(similarity_matrix))
    value = 0.0
    for k in range(len(m)):
        value += np.log(m[k, k])
        for row in range(k + 1, len(m)):
            m[row] -= m[row, k] / m[k, k] * m[k]
    return value


def log_det_gradient(activations, gamma, jitter):
    """Gradient of log det(S + jitter I) with respect to the activations: d log det = tr((S + jitter I)^-1 dS)."""
    s = similarity(activations, gamma)
    inverse = np.linalg.inv(s + jitter * np.eye(len(s)))
    return similarity_gradient(activations, gamma, inverse)


def norm(activations):
    """(1/N) sum_i ||a_i||^2."""
    return sum(float(x) ** 2 for row in np.asarray(activations, dtype=np.float64) for x in row) / len(activations)


def average_distance(activations):
    """1/(2 D (D-1)) sum_{n != m} (a_n - a_m)^2 for each sample, from the definition."""
    result = []
    for row in np.asarray(activations, dtype=np.float64):
        units = len(row)
        total = sum((row[n] - row[m]) ** 2 for n in range(units) for m in range(units) if n != m)
        result.append(total / (2 * units * (units - 1)))
    return np.array(result)


def finite_difference(function, point, step=1e-6):
    """Central differences of a scalar function of a float64 array."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(*point.shape):
        plus, minus = point.copy(), point.copy()
        plus[index] += step
        minus[index] -= step
        gradient[index] = (function(plus) - function(minus)) / (2 * step)
    return gradient


def covariance(activations):
    """C with 1/N, entry by entry."""
    a = np.asarray(activations, dtype=np.float64)
    units = a.shape[1]
    return np.array([[np.mean((a[:, n] - a[:, n].mean()) * (a[:, m] - a[:, m].mean())) for m in range(units)]
                     for n in range(units)])  # fmt: skip


def decov(activations):
    """Half the sum of squares of all C_nm with n != m."""
    c = covariance(activations)
    return sum(c[n, m] ** 2 for n in range(len(c)) for m in range(len(c)) if n != m) / 2


def vcreg(activations):
    """mean_n max(0, 1 - std_n) + mean_{n != m} C_nm^2, with 1/(N - 1) and std_n = sqrt(C_nn + 1e-4)."""
    samples = len(activations)
    c = covariance(activations) * samples / (samples - 1)
    units = len(c)
    spread = sum(max(0.0, 1 - np.sqrt(c[n, n] + 1e-4)) for n in range(units)) / units
    return spread + sum(c[n, m] ** 2 for n in range(units) for m in range(units) if n != m) / (units * (units - 1))


def correlation(activations):
    """Mean of the squared correlation coefficients of two different units that both vary; of others 0."""
    a = np.asarray(activations, dtype=np.float64)
    units = a.shape[1]
    total = 0.0
    for n in range(units):
        for m in range(units):
            if n != m and a[:, n].std() > 0 and a[:, m].std() > 0:
                total += np.corrcoef(a[:, n], a[:, m])[0, 1] ** 2
    return total / (units * (units - 1))


def slope(function, point, direction, step=1e-6):
    """Derivative of `function` along `direction` by central differences."""
    return (function(point + step * direction) - function(point - step * direction)) / (2 * step)
