import numpy as np


def hits(ranking, k):
    """Share of the users whose event is among the first k."""
    return float(np.mean(np.array(ranking.ranks) < k + 1))
