"""When is a window unlike the start? A test on all signals at once, whose chance of a false alarm is stated.

A window and the windows of the start are rows of groups. If the policy still does what it did, it is chance which of
them are the window's. So groups are dealt anew many times, and the p-value is the share of deals in which some signal
is as high as it is now. Nothing is assumed of the signals' distributions, nor that they are independent.

Source: the permutation test of the largest statistic, Westfall and Young 1993, for single-step adjusted p-values.
"""

import numpy as np

from codescaler.metrics import Figures

NUM_DEALS = 1999


def compare_window(start: Figures, window: Figures, *, seed: int, num_deals: int = NUM_DEALS) -> Figures:
    """Returns a p-value for each signal, adjusted for the number of signals; that of the window is the smallest.

    A signal counts when it is higher than at the start. A group without a figure (NaN) counts as the mean of all.
    Shapes: start [groups, signals], window [fewer groups, signals] -> [signals].
    """
    rows = np.concatenate([start, window])
    known = ~np.isnan(rows)
    total = np.where(known, rows, 0.0).sum(axis=0)
    centred = np.where(known, rows - total / np.maximum(known.sum(axis=0), 1), 0.0)
    scale = np.sqrt((centred**2).mean(axis=0))
    # A signal that never changes says nothing. What is left of it is rounding.
    moves = scale > 1e-9 * (1 + np.abs(total) / len(rows))
    standard = np.where(moves, centred / np.where(moves, scale, 1.0), 0.0)
    observed = standard[len(start) :].mean(axis=0)
    order = np.random.default_rng(seed).random((num_deals, len(rows))).argpartition(len(window) - 1, axis=1)
    largest = standard[order[:, : len(window)]].mean(axis=1).max(axis=1)
    return np.asarray((1 + (largest[:, None] >= observed - 1e-9).sum(axis=0)) / (num_deals + 1))
