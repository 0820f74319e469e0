"""The ids of a world: int64 without order, or the numbers of texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.data.ids import Family, IdMap, Ids, ShopIds
from moonlib.sources.marketplace.streams import mix
from moonlib.sources.marketplace.world import World

PREFIX: dict[Family, str] = {
    "item": "SKU-",
    "spu": "P-",
    "user": "u-",
    "query": "q-",
    "search": "s-",
    "merchant": "shop-",
}
"""How a text id begins; thirteen digits to the base 32 follow."""

_DIGITS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUV", dtype=np.uint8)


class WorldIds:
    """The ids of a world, without order: int64, or numbers of texts, which `shop` knows. Both have the same order.

    Attributes:
        item, spu, merchant: int64, one per listing; user: int64, one per shopper.
        shop: the text ids, of all families; none where the world's ids are int64.

    Args:
        world: whose rows get them.
    """

    def __init__(self, world: World) -> None:
        c, t = world.catalogue, world.traffic
        item, spu, user, self._search, self._query = world.streams["ids"].integers(2**63, size=5).tolist()
        self.item = mix(np.arange(len(c)), item)
        self.spu = mix(c.spu, spu)
        self.user = mix(np.arange(len(world.shoppers)), user)
        self.merchant = mix(c.merchant, int(world.streams["merchants"].integers(2**63)))
        self._ascending: dict[Family, Ids] = {}
        if world.text_ids:
            happened = np.zeros(len(t.user), dtype=bool)
            happened[t.acted_search] = happened[t.search] = True
            self._ascending = {
                "item": np.sort(self.item),
                "spu": np.unique(self.spu),
                "user": np.sort(self.user),
                "merchant": np.unique(self.merchant),
                "search": np.sort(mix(np.flatnonzero(happened), self._search)),
                "query": np.sort(mix(world.asked, self._query)),
            }
            self.item, self.spu = self._numbers("item", self.item), self._numbers("spu", self.spu)
            self.user, self.merchant = self._numbers("user", self.user), self._numbers("merchant", self.merchant)
        self.shop = ShopIds({family: IdMap([_texts(family, ids)]) for family, ids in self._ascending.items()})

    def searches(self, numbers: NDArray[np.integer]) -> Ids:
        """Ids of searches by their running numbers; those of the simulation come first."""
        return self._numbers("search", mix(numbers, self._search), numbers)

    def queries(self, numbers: NDArray[np.integer]) -> Ids:
        """Ids of the queries of searches."""
        return self._numbers("query", mix(numbers, self._query), numbers)

    def _numbers(self, family: Family, ids: Ids, running: NDArray[np.integer] | int = 0) -> Ids:
        """The numbers of ids where they are text; those that no table names have other numbers, beyond."""
        known = self._ascending.get(family)
        if known is None:
            return ids
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[place] == ids, place, len(known) + running)


def _texts(family: Family, ids: Ids) -> pa.LargeStringArray:
    """Write ids as texts of the same order."""
    prefix = np.frombuffer(PREFIX[family].encode(), dtype=np.uint8)
    written = np.empty((len(ids), len(prefix) + 13), dtype=np.uint8)
    written[:, : len(prefix)] = prefix
    value = ids.view(np.uint64) ^ np.uint64(2**63)
    for place, shift in enumerate(range(60, -1, -5), len(prefix)):
        written[:, place] = _DIGITS[(value >> np.uint64(shift)) & np.uint64(31)]
    offsets = np.arange(len(ids) + 1) * written.shape[1]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(written)]
    return pa.Array.from_buffers(pa.large_string(), len(ids), buffers)
