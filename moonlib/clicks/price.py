"""Scale of prices: standardised logarithms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True)
class PriceScale:
    """(log(1 + price) - centre) / spread.

    Attributes:
        missing: price of a product without one.
        centre: mean of the logarithms of the products that training sees.
        spread: their standard deviation.
    """

    missing: float
    centre: float
    spread: float

    @classmethod
    def of(cls, products: pl.DataFrame, train_until: object) -> PriceScale:
        """Learn from products listed before ``train_until``; columns price and listed_at.

        A product without a price counts with the mean of all the others.
        """
        found = _prices(products)
        mean = found.mean()
        missing = mean if isinstance(mean, float) else 0.0
        log_price = _log(found.fill_null(missing).to_numpy())
        seen = log_price[(products["listed_at"] < train_until).to_numpy()]
        centre, spread = (float(seen.mean()), float(seen.std())) if len(seen) else (0.0, 1.0)
        return cls(missing, centre, max(spread, 1e-6))

    def encode(self, products: pl.DataFrame) -> NDArray[np.float32]:
        """Scaled price of each of N products, float32 [N]."""
        log_price = _log(_prices(products).fill_null(self.missing).to_numpy())
        return ((log_price - self.centre) / self.spread).astype(np.float32)


def _prices(products: pl.DataFrame) -> pl.Series:
    return products["price"].cast(pl.Float64).fill_nan(None)


def _log(prices: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log1p(np.maximum(prices, 0.0))
