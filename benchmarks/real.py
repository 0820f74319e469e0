"""Real pictures: does the encoder find another artist's drawing of a concept it has never seen?

    make real && python benchmarks/real.py runs/emoji_circle runs/emoji_refined runs/emoji

Reads finished runs of recipes/data/emoji.yaml and of what extends it; the first is compared with the others. Intervals
are 95 % bootstrap intervals over concepts, paired. Ends with ``ratio``: recall@10 of the first over that of the colour
thumbnail.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moonlib.studies.paired import recall_gain, show

ROWS = {
    "image → image": ("image_search", ""),
    "text → image": ("text_search", ""),
    "text → image, English": ("text_search", "@en"),
    "text → image, Chinese": ("text_search", "@zh"),
}
BASELINES = ("initial", "thumbnail", "chance")


def main() -> None:
    """Print the table of the runs, recall@1 and recall@10."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", default=[Path("runs/emoji")])
    first, *others = parser.parse_args().runs

    results = {run: json.loads((run / "results.json").read_text()) for run in (first, *others)}
    columns = {run.name: (results[run], "") for run in results}
    columns |= {name: (results[first], f"baseline/{name}/") for name in BASELINES}
    table = Table("held-out concepts", "recall")
    for heading in columns:
        table.add_column(heading, justify="right")
    for title, (task, segment) in ROWS.items():
        for k in (1, 10):
            values = [of.get(f"{prefix}{task}/recall@{k}{segment}") for of, prefix in columns.values()]
            table.add_row(title, f"@{k}", *("" if value is None else f"{value:.4f}" for value in values))
    console = Console(width=140)
    console.print(table)
    for k in (1, 10):
        for baseline in ("thumbnail", "initial"):
            gain = recall_gain(first, first, f"represent.baseline.{baseline}", k=k)
            console.print(f"image → image, recall@{k}, {first.name} - {baseline}: {show(gain)}", highlight=False)
        for run in others:
            gain = recall_gain(first, run, k=k)
            console.print(f"image → image, recall@{k}, {first.name} - {run.name}: {show(gain)}", highlight=False)
    key = "image_search/recall@10"
    print(f"ratio: {results[first][key] / results[first][f'baseline/thumbnail/{key}']:.2f}")


if __name__ == "__main__":
    main()
