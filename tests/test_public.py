"""What `import moonlib` offers."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import moonlib

PACKAGE = Path(moonlib.__file__).parent


def test_what_is_offered_is_listed_and_there() -> None:
    assert dir(moonlib) == sorted(moonlib.__all__)
    for name in set(moonlib.__all__) - {"__version__"}:
        found = getattr(moonlib, name)
        assert found.__name__ == name and found.__doc__, name
    assert inspect.signature(moonlib.fit).parameters["config"]
    with pytest.raises(AttributeError, match="No moonlib attribute fitt"):
        _ = moonlib.fitt


def test_no_module_hides_what_is_offered() -> None:
    """Importing moonlib.fit, were there such a module, would put it in the function's place."""
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(moonlib.__all__)


def test_importing_it_is_quick_to_begin_with() -> None:
    code = (
        "import sys, moonlib; dir(moonlib); print(sorted({'torch', 'lightning', 'polars', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
