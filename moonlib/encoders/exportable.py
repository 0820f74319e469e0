"""Parts that can be exported without the place that they came from: encoders and their towers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn


class Exportable(nn.Module):
    """A module that `moonlib export` can write so that it opens without the hub and this machine's folders."""

    def exported_parts(self) -> Mapping[str, nn.Module]:
        """Components that this one was constructed with, by the name of the constructor's argument.

        `moonlib export` asks each of them for its architecture. By default all child modules by the names of their
        attributes, of which those count that are arguments, too; a component that keeps one under another name than
        the argument's says so here.
        """
        return dict(self.named_children())

    def save_architecture(self, directory: Path) -> dict[str, Any]:
        """Write what `setup` reads from elsewhere, such as the hub or a folder of this machine, less the weights.

        `moonlib export` calls it, so that an export can be opened without that place. A component that reads nothing
        but what is in the directory of its preprocessing need not do anything.

        Args:
            directory: to write to, and to make if there is something to write; nobody else writes there.

        Returns:
            Arguments of the constructor that take the place of this component's: one that is made with them makes the
            same architecture and preprocessor out of ``directory``, with weights of no consequence. Paths below
            ``directory`` are absolute.
        """
        return {}
