"""Cost of keeping products' vectors as int8 or float16, on finished runs: the change of recall@10.

    python benchmarks/at_rest.py RUN [RUN ...]

Of each run's stored vectors, products are kept smaller and queries stay as they are. ``recall@10`` is the share of test
searches whose ordered product is among the ten nearest of all that were listed by then; ``same ten`` is the share of
the ten nearest products by float32 that are still among the ten nearest.

Ends with ``ratio``: .002 over the largest change of recall@10 by int8; 1 or more is the aim.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import moonlib.compat  # noqa: F401
import numpy as np
from rich.console import Console
from rich.table import Table

from moonlib.probes.probe import Represented
from moonlib.probes.search import asked_searches, ranks_of
from moonlib.representations.index import nearest
from moonlib.representations.store import Representations, unit
from moonlib.runs.run import Run

QUERIES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    shown = Table("run", "kept as", "bytes", "recall@10", "change", "same ten")
    largest = 0.0
    for place in parser.parse_args().runs:
        run = Run(place)
        dataset, (products, queries) = run.dataset(), run.representations()
        searches = asked_searches(dataset, "test")
        asked = queries.gather(searches["query_id"].to_numpy())
        asked = asked[asked.any(axis=1)][:QUERIES]
        whole, before = nearest(products, asked, 10)[0], None
        for kind in ("float32", "float16", "int8"):
            small = products.as_type(kind)  # type: ignore[arg-type]
            kept = Representations(products.ids, unit(small.read(slice(None))))
            recall = float((ranks_of(Represented(dataset, kept, queries, "test"), searches) < 10).mean())
            before = recall if before is None else before
            ten = nearest(kept, asked, 10)[0]
            same = np.mean([np.isin(row, found).mean() for row, found in zip(whole, ten, strict=True)])
            size = small.vectors.itemsize * small.dim
            shown.add_row(place.name, kind, str(size), f"{recall:.4f}", f"{recall - before:+.4f}", f"{same:.4f}")
            if kind == "int8":
                largest = max(largest, abs(recall - before))
    Console().print(shown)
    print(f"ratio: {0.002 / max(largest, 1e-9):.2f}")


if __name__ == "__main__":
    main()
