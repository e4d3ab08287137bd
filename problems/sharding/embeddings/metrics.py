"""AUC and logloss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def auc(scores: Tensor, labels: Tensor) -> float:
    """Probability that a random positive scores above a random negative, ties counting one half.

    Args:
        scores: [S].
        labels: [S], 0 or 1.

    Returns:
        NaN where one of the classes is empty.
    """
    scores = scores.detach().to(torch.float64).cpu()
    is_positive = labels.detach().cpu() > 0.5
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).to(torch.float64)
    ranks = (last - (counts - 1) / 2.0)[place]  # the mean rank of equal scores
    return float((ranks[is_positive].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def expected_auc(probabilities: Tensor) -> float:
    """AUC of the true probabilities [S] as scores, in expectation over the labels: the Bayes optimum for these samples.

    Sum over i, j of p_i (1 - p_j) [p_i > p_j] over sum p_i sum (1 - p_j), pairs of one sample with itself excluded.
    """
    p = probabilities.detach().to(torch.float64).cpu().sort().values
    below = (1.0 - p).cumsum(0) - (1.0 - p)  # negatives expected strictly below in the order
    wins = (p * below).sum()
    pairs = p.sum() * (1.0 - p).sum() - (p * (1.0 - p)).sum()
    return float(wins / pairs)


def logloss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross entropy in nats."""
    return float(functional.binary_cross_entropy_with_logits(logits.detach().double(), labels.detach().double()))
