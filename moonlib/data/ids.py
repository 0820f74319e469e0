"""Ids of products, queries and users, as arrays."""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""int64 [N], or [Q, L] for lists of them."""
