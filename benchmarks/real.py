"""Real pictures: does the encoder find another artist's drawing of a concept it has never seen?

    make real && python benchmarks/real.py runs/emoji_refined --against runs/emoji

Reads finished runs of recipes/data/emoji.yaml and of what extends it. Intervals are 95 % bootstrap intervals over
concepts, paired. Ends with ``ratio``: recall@10 over that of the colour thumbnail.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moonlib.studies.paired import recall_gain, show

ROWS = {
    "image → image": "image_search/recall@10",
    "text → image": "text_search/recall@10",
    "text → image, English": "text_search/recall@10@en",
    "text → image, Chinese": "text_search/recall@10@zh",
}
COLUMNS = {
    "run": "",
    "untrained": "baseline/untrained/",
    "thumbnail": "baseline/thumbnail/",
    "chance": "baseline/chance/",
}


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/emoji"))
    parser.add_argument("--against", type=Path, help="another run, to compare with")
    arguments = parser.parse_args()
    run: Path = arguments.run

    results = json.loads((run / "results.json").read_text())
    table = Table("recall@10, held-out concepts")
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    for title, key in ROWS.items():
        values = [results.get(f"{prefix}{key}") for prefix in COLUMNS.values()]
        table.add_row(title, *("" if value is None else f"{value:.4f}" for value in values))
    console = Console(width=100)
    console.print(table)
    for baseline in ("thumbnail", "untrained"):
        gain = recall_gain(run, run, f"represent.baseline.{baseline}")
        console.print(f"image → image, run - {baseline}: {show(gain)}", highlight=False)
    if arguments.against:
        for k in (10, 1):
            gain = recall_gain(run, arguments.against, k=k)
            console.print(
                f"image → image, recall@{k}, {run.name} - {arguments.against.name}: {show(gain)}", highlight=False
            )
    key = ROWS["image → image"]
    print(f"ratio: {results[key] / results[f'baseline/thumbnail/{key}']:.2f}")


if __name__ == "__main__":
    main()
