from __future__ import annotations

import pytest

from moonlib.sources.marketplace.world import World


@pytest.fixture(scope="session")
def world() -> World:
    """The tiny marketplace, seed 0, without its pictures."""
    return World.simulate("tiny", 0)
