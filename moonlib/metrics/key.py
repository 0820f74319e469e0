"""The key of a result: which days, whose, what task, which metric, which part of the rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

_AT_K = re.compile(r"@\d+(\.\d+)?(?=@|$)")
"""The K of a metric, as in ``recall@10``; all else behind an ``@`` names a segment."""


@dataclass(frozen=True, order=True)
class MetricKey:
    """A key of ``results.json``, taken apart: ``[reference/][valid/][task/]name[@segment]``.

    Attributes:
        split: ``test`` or ``valid`` days.
        reference: prefix of a baseline or upper bound, such as ``baseline/shuffled``; empty for the run's own result.
        task: what was measured: ``image_search``, ``text_search``, ``ctr``, ``retrieval``, ``relevance``, ``quantise``,
            or what a plugin's stage says; empty for a key of one word.
        name: of the metric, its K included: ``auc``, ``recall@10``.
        segment: the part of the rows: ``new``, ``64d``, ``column=value``, where an ``@`` is written ``%40``; empty for
            all of them.

    Example:
        >>> key = MetricKey.parse("baseline/shuffled/valid/ctr/auc@category=Home/Vase", ["baseline/shuffled"])
        >>> key.split, key.reference, key.task, key.name, key.segment
        ('valid', 'baseline/shuffled', 'ctr', 'auc', 'category=Home/Vase')
        >>> str(replace(key, split="test", reference="", segment=""))
        'ctr/auc'
    """

    split: Literal["test", "valid"] = "test"
    reference: str = ""
    task: str = ""
    name: str = ""
    segment: str = ""

    @classmethod
    def parse(cls, text: str, references: Iterable[str] = ()) -> MetricKey:
        """Take a key apart.

        Args:
            text: as in ``results.json``.
            references: prefixes of the references that the results may hold, see `moonlib.runs.results.Legend`. Without
                them a reference is known by what stands before ``valid``, and that of test days counts as a task.

        Returns:
            The key; ``str`` of it is ``text`` again.
        """
        path, at, rest = text.partition("@")
        before, valid, after = f"/{path}".rpartition("/valid/")
        if valid:
            reference, measured = before.removeprefix("/"), after
        else:
            reference = max((prefix for prefix in references if path.startswith(f"{prefix}/")), key=len, default="")
            measured = path[len(reference) + 1 :] if reference else path
        task, slash, name = measured.partition("/")
        if not slash:
            task, name = "", measured
        k = _AT_K.match(at + rest)
        name += k[0] if k else ""
        segment = (at + rest)[len(k[0]) if k else 0 :].removeprefix("@")
        return cls("valid" if valid else "test", reference, task, name, segment)

    @property
    def measured(self) -> str:
        """The task and the name: what a metric's title and direction are known by."""
        return f"{self.task}/{self.name}" if self.task else self.name

    @property
    def whole(self) -> MetricKey:
        """The key of all rows."""
        return replace(self, segment="")

    def __str__(self) -> str:
        path = [self.reference, "valid" if self.split == "valid" else "", self.measured]
        return "/".join(filter(None, path)) + (f"@{self.segment}" if self.segment else "")
