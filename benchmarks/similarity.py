"""S and Logdet against the naive form."""

import peers
from report import Row
from timing import available_memory, forward_backward, interleaved, normal

from hf_diversity import functional

NAIVE_BYTES = 6e9  # what the naive form takes, and some


def logdet_against_naive(rounds):
    """Logdet and S at 128 x 1024; the naive form at full size where memory allows, or scaled from 16 samples."""
    a = normal(128, 1024)
    samples = 16 if available_memory() < NAIVE_BYTES else len(a)
    s = functional.similarity_matrix(a, 1.0)
    seconds = interleaved(
        {
            "logdet": forward_backward(lambda x: functional.logdet(x, 1.0), a),
            "similarity": forward_backward(lambda x: functional.similarity_matrix(x, 1.0).sum(), a),
            "naive similarity": forward_backward(lambda x: peers.naive_similarity(x, 1.0).sum(), a[:samples]),
            "cholesky": forward_backward(functional.logdet_from_similarity, s),
        },
        rounds,
        slow=("naive similarity",),
    )
    naive = seconds["naive similarity"] * len(a) / samples + seconds["cholesky"]
    return [
        Row("S 128x1024", 1e3 * seconds["similarity"], "ms"),
        Row("Logdet 128x1024", 1e3 * seconds["logdet"], "ms"),
        Row(
            f"Logdet 128x1024 against naive ({samples} of 128 samples)",
            naive / seconds["logdet"],
            "x",
            at_least=12,
        ),
    ]
