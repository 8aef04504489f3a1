"""Paired items as columns: what a loop over a hundred thousand records costs is paid once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kpis.bootstrap import Floats, Integers, sums_by_number
from kpis.records import ItemPair

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ItemTable:
    """Right and wrong answers of both models, one entry per item; clusters and slices numbered by name."""

    dense: Bools
    skip: Bools
    same: Bools
    cluster: Integers
    slice: Integers
    n_clusters: int
    slice_names: tuple[str, ...]

    @classmethod
    def of(cls, items: Sequence[ItemPair]) -> ItemTable:
        """Read the records; an empty list gives an empty table."""
        cluster, names = _numbers([item.cluster for item in items])
        slices, slice_names = _numbers([item.slice for item in items])
        return cls(
            dense=np.array([item.dense_correct for item in items], dtype=bool),
            skip=np.array([item.skip_correct for item in items], dtype=bool),
            same=np.array([item.same_answer for item in items], dtype=bool),
            cluster=cluster,
            slice=slices,
            n_clusters=len(names),
            slice_names=slice_names,
        )

    def __len__(self) -> int:
        return len(self.dense)

    @property
    def harmful(self) -> Bools:
        """Items that the dense model has right and the skip model wrong."""
        return self.dense & ~self.skip

    @property
    def helpful(self) -> Bools:
        """Items that the dense model has wrong and the skip model right."""
        return self.skip & ~self.dense

    @property
    def has_repeats(self) -> bool:
        """Whether any two items share a source."""
        return self.n_clusters < len(self)

    def part(self, mask: Bools) -> ItemTable:
        """The items under a mask, with clusters numbered anew in the same order."""
        names, cluster = np.unique(self.cluster[mask], return_inverse=True)
        return ItemTable(
            self.dense[mask], self.skip[mask], self.same[mask], cluster, self.slice[mask], len(names), self.slice_names
        )

    def sums(self, values: Floats) -> Floats:
        """Per cluster: the sum of the values and the number of items."""
        columns = np.column_stack([values, np.ones(len(self))])
        return sums_by_number(self.cluster, columns, self.n_clusters)


def _numbers(names: Sequence[str]) -> tuple[Integers, tuple[str, ...]]:
    known = tuple(sorted(set(names)))
    number = {name: index for index, name in enumerate(known)}
    return np.array([number[name] for name in names], dtype=np.intp), known
