"""Cost of keeping products' vectors as int8 or float16, on finished runs: the change of recall@10 and of AUC.

    python benchmarks/at_rest.py                  fits iter3 on small first, or goes on with it: minutes
    python benchmarks/at_rest.py RUN [RUN ...]    on finished runs

Of each run's stored vectors, products are kept smaller and queries stay as they are. ``recall@10`` is the share of test
searches whose ordered product is among the ten nearest of all that were listed by then; ``same ten`` is the share of
the ten nearest products by float32 that are still among the ten nearest. ``AUC`` is that of the run's click model on
the test days: the same weights, given the smaller vectors as directions.

Ends with ``ratio``: the smaller of .002 over the change of recall@10 and .0005 over that of AUC, by int8; 1 or more is
the aim.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from moonlib.metrics.auc import AUC
from moonlib.metrics.ctr import ctr_metrics
from moonlib.probes.probe import Represented
from moonlib.probes.search import asked_searches, ranks_of
from moonlib.representations.index import nearest
from moonlib.representations.store import Representations, unit
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run
from moonlib.stages.application import Application

QUERIES = 300
LIMITS = {"recall@10": 0.002, "AUC": 0.0005}


def auc(run: Run, products: Representations) -> float:
    """Test AUC of a run's click model, as it was trained, with these vectors of products."""
    dataset = run.dataset()
    module, context = run.reopen("application", dataset)
    assert isinstance(module, Application)
    queries = run.representations()[1]
    with mock.patch.object(module, "read_representations", lambda _: (products, queries)):
        rows = dataset.splits.check(dataset.impressions, "test", "impressions")
        predicted = module.score(context, rows)
    return float(ctr_metrics(rows.with_columns(probability=pl.Series(predicted)), [AUC()])["auc"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    parser.add_argument(
        "--size", default="small", help="of the marketplace that a run is fitted on, where none is given"
    )
    given = parser.parse_args()
    places = given.runs or [fit("iter3", [f"--data.init_args.size={given.size}"], name=f"at_rest-{given.size}")]
    shown = Table("run", "kept as", "bytes", "recall@10", "change", "same ten", "AUC", "change")
    largest = dict.fromkeys(LIMITS, 0.0)
    for place in places:
        run = Run(place)
        dataset, (products, queries) = run.dataset(), run.representations()
        searches = asked_searches(dataset, "test")
        asked = queries.gather(searches["query_id"].to_numpy())
        asked = asked[asked.any(axis=1)][:QUERIES]
        whole = nearest(products, asked, 10)[0]
        before: dict[str, float] = {}
        for kind in ("float32", "float16", "int8"):
            small = products.as_type(kind)  # type: ignore[arg-type]
            kept = Representations(products.ids, unit(small.read(slice(None))))
            recall = float((ranks_of(Represented(dataset, kept, queries, "test"), searches) < 10).mean())
            found = {"recall@10": recall, "AUC": auc(run, kept)}
            before = before or found
            change = {name: found[name] - before[name] for name in LIMITS}
            ten = nearest(kept, asked, 10)[0]
            same = np.mean([np.isin(row, those).mean() for row, those in zip(whole, ten, strict=True)])
            size = small.vectors.itemsize * small.dim
            row = [place.name, kind, str(size), f"{recall:.4f}", f"{change['recall@10']:+.4f}", f"{same:.4f}"]
            shown.add_row(*row, f"{found['AUC']:.5f}", f"{change['AUC']:+.5f}")
            if kind == "int8":
                largest = {name: max(largest[name], abs(change[name])) for name in LIMITS}
    Console().print(shown)
    print(f"ratio: {min(LIMITS[name] / max(largest[name], 1e-9) for name in LIMITS):.2f}")


if __name__ == "__main__":
    main()
