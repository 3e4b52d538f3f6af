"""One design point: run it, read its record."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from .program import POINTS_FAILED, Outside, allowing, call, limits

#: A design point: a file, or its content.
Point = str | os.PathLike | Mapping


class Record(Mapping):
    """The metrics of a run by name, in SI units.

    `document` is the whole record: config, constants with their sources, notes.
    """

    def __init__(self, document: dict):
        self.document = document
        self._metrics = {metric["name"]: metric for metric in document["metrics"]}

    def __getitem__(self, name: str) -> float:
        return self._metrics[name]["value"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    def __repr__(self) -> str:
        return f"<Record {self.document['name']}: {self.status}, {len(self)} metrics>"

    @property
    def status(self) -> str:
        """"ok", or why there are no metrics ("out_of_memory", "stopped")."""
        return self.document["status"]

    def unit(self, name: str) -> str:
        """Unit of a metric; "1" for plain numbers."""
        return self._metrics[name]["unit"]


def shipped(name: str) -> dict:
    """A design point that extends a shipped config, to be changed."""
    return {"extends": f"nearkv:{name}"}


def written(document: Point, folder: str, name: str) -> Path:
    """The file of a document: itself, or one in `folder`, which the content is written to."""
    if not isinstance(document, Mapping):
        return Path(document)
    file = Path(folder) / f"{name}.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def run(point: Point, name: str | None = None, settings: Mapping[str, object] | None = None,
        out: str | os.PathLike | None = None, max_wall: str | None = None,
        max_memory: str | None = None, allow_outside: Outside | None = None) -> Record:
    """Simulates a design point.

    `name` replaces the point's name, and `settings` sets values by path, as --set does
    ({"workload/batch": 64}). The record is kept in the folder `out`, if there is one. Paths in a
    dict ("extends") are relative to a temporary folder: name shipped files ("nearkv:...") or
    absolute ones. A file may name what lies below its folder, and more with `allow_outside`: True,
    or a list of folders. A run that takes longer than `max_wall` ("10min") or more memory than
    `max_memory` ("4GiB") is stopped, which its record says. Raises Error for a point that is
    refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = written(point, folder, name or "point")
        arguments: list[str | os.PathLike] = ["run", file, "--json", "--out", out or folder,
                                              *limits(max_wall, max_memory),
                                              *allowing(allow_outside, point)]
        changes = dict(settings or {})
        if name is not None:
            changes["name"] = name
        for path, value in changes.items():
            text = value if isinstance(value, str) else json.dumps(value)
            arguments += ["--set", f"{path}={text}"]
        return Record(json.loads(call(*arguments, fails=(POINTS_FAILED,))))
