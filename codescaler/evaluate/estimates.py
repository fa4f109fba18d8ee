"""Means with bootstrap intervals, of many figures at once. Knows numbers only."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypedDict, TypeVar

import numpy as np

from codescaler.metrics import Figures, compute_percentile_intervals, resample_means

Key = TypeVar("Key", bound=Hashable)


class Estimate(TypedDict):
    """A mean, and its 95% interval."""

    mean: float
    interval: tuple[float, float]


def estimate_means(columns: Mapping[Key, Figures], clusters: Sequence[str]) -> dict[Key, Estimate]:
    """The mean over rows of each column; rows of one cluster are drawn together. No row, no estimate."""
    return estimate_mean_of_parts([columns], [clusters], [1.0]) if columns and clusters else {}


def estimate_mean_of_parts(
    parts: Sequence[Mapping[Key, Figures]], clusters: Sequence[Sequence[str]], weights: Sequence[float]
) -> dict[Key, Estimate]:
    """The weighted mean of the means of parts, such as domains, each of which is drawn from on its own.

    Every part has the same columns and at least one row; weights add up to 1.
    """
    keys, mean, resampled = list(parts[0]), np.zeros(len(parts[0])), np.zeros(())
    for seed, (columns, names, weight) in enumerate(zip(parts, clusters, weights, strict=True)):
        values = np.stack([columns[key] for key in keys], axis=1)
        index = {name: place for place, name in enumerate(dict.fromkeys(names))}
        place = np.array([index[name] for name in names])
        sums, sizes = np.zeros((len(index), len(keys))), np.bincount(place)
        np.add.at(sums, place, values)
        mean = mean + weight * values.mean(axis=0)
        resampled = resampled + weight * resample_means(sums / sizes[:, None], sizes, seed=seed)
    intervals = compute_percentile_intervals(resampled)
    return {key: Estimate(mean=float(mean[k]), interval=intervals[k]) for k, key in enumerate(keys)}


def estimate_correlation(
    clusters: Sequence[str], first: Sequence[Figures], second: Sequence[Figures], *, is_within: bool = False
) -> Estimate | None:
    """Pearson's correlation over the items of all rows; None where all figures are the same, or some are infinite.

    A row is the figures of one problem. With `is_within`, of figures less the mean of their row.
    """
    if not all(np.isfinite(values).all() for part in (first, second) for values in part):
        return None
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(places), 6))
    for name, x, y in zip(clusters, first, second, strict=True):
        x, y = (x - x.mean(), y - y.mean()) if is_within else (x, y)
        sums[places[name]] += [len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y]

    def compute(rows: Figures) -> Figures:
        count, x, y, xx, yy, xy = rows.T
        with np.errstate(invalid="ignore", divide="ignore"):
            variances = np.maximum(count * xx - x * x, 0.0) * np.maximum(count * yy - y * y, 0.0)
            return np.asarray((count * xy - x * y) / np.sqrt(variances))

    mean, resampled = float(compute(sums.mean(axis=0)[None])[0]), compute(resample_means(sums))
    known = resampled[np.isfinite(resampled)]
    if not math.isfinite(mean) or not len(known):
        return None
    return Estimate(mean=mean, interval=compute_percentile_intervals(known[:, None])[0])
