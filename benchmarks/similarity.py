"""S and Logdet against the naive form."""

import peers
from report import Row
from timing import forward_backward, interleaved, normal

from hf_diversity import functional

NAIVE_SAMPLES = 16  # its exponentials are linear in N; at N = 128 they take several GB


def logdet_against_naive(rounds):
    """Logdet and S at 128 x 1024; the naive form is its Cholesky part plus exponentials scaled from 16 samples."""
    a = normal(128, 1024)
    s = functional.similarity_matrix(a, 1.0)
    seconds = interleaved(
        {
            "logdet": forward_backward(lambda x: functional.logdet(x, 1.0), a),
            "similarity": forward_backward(lambda x: functional.similarity_matrix(x, 1.0).sum(), a),
            "naive similarity": forward_backward(lambda x: peers.naive_similarity(x, 1.0).sum(), a[:NAIVE_SAMPLES]),
            "cholesky": forward_backward(functional.logdet_from_similarity, s),
        },
        rounds,
    )
    naive = seconds["naive similarity"] * len(a) / NAIVE_SAMPLES + seconds["cholesky"]
    return [
        Row("S 128x1024", 1e3 * seconds["similarity"], "ms"),
        Row("Logdet 128x1024", 1e3 * seconds["logdet"], "ms"),
        Row(
            f"Logdet 128x1024 against naive ({NAIVE_SAMPLES} samples, scaled)",
            naive / seconds["logdet"],
            "x",
            at_least=12,
        ),
    ]
