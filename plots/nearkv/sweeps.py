"""Sweeps: run them, and read their tables as data frames."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .program import POINTS_FAILED, Outside, allowing, call, limits
from .records import Point, written

if TYPE_CHECKING:
    import pandas


class SweepResults:
    """The table of a sweep.

    `frame` has a row a point: point, the axes, status, detail, metrics; columns have plain names
    and SI units, which `units` has by name.
    """

    def __init__(self, frame: pandas.DataFrame, units: dict[str, str], file: Path):
        self.frame = frame
        self.units = units
        self.file = file

    def __repr__(self) -> str:
        return f"<SweepResults {self.file}: {len(self.frame)} points>"

    def __len__(self) -> int:
        return len(self.frame)

    def label(self, name: str) -> str:
        """A column for an axis of a plot: "throughput (token/s)"."""
        unit = self.units.get(name, "1")
        return name if unit in ("", "1") else f"{name} ({unit})"

    def ran(self) -> pandas.DataFrame:
        """The rows of points that ran."""
        return self.frame[self.frame["status"] == "ok"]

    def to_parquet(self, file: str | os.PathLike) -> None:
        """Writes the table as Parquet, units in the columns' metadata.

        Needs pyarrow, which Debian does not have: pip install pyarrow, in a virtual environment.
        """
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError(
                "Parquet needs pyarrow: pip install pyarrow, in a virtual environment",
                name="pyarrow") from missing
        table = pyarrow.Table.from_pandas(self.frame, preserve_index=False)
        fields = [field.with_metadata({"unit": self.units.get(field.name, "1")})
                  for field in table.schema]
        schema = pyarrow.schema(fields, metadata=table.schema.metadata)
        parquet.write_table(table.cast(schema), file)


def read(folder: str | os.PathLike) -> SweepResults:
    """Reads the folder of a sweep that ran ("results/flash_geometry").

    Raises FileNotFoundError where there is no table, and ModuleNotFoundError without pandas.
    """
    try:
        import pandas
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "pandas is missing; install the Debian package python3-pandas",
            name="pandas") from missing
    file = Path(folder) / "points.csv"
    columns = json.loads((Path(folder) / "points.units.json").read_text(encoding="utf-8"))
    with open(file, newline="", encoding="utf-8") as opened:
        titles = next(csv.reader(opened))
    names = [columns[title].get("name", title) for title in titles]
    units = {name: columns[title]["unit"] for name, title in zip(names, titles)}
    # A text such as "NA" or "None" in an axis is a text.
    frame = pandas.read_csv(file, header=0, names=names, keep_default_na=False,
                            na_values={name: [""] for name, unit in units.items() if unit})
    return SweepResults(frame, units, file)


def sweep(sweep: Point, name: str = "sweep", jobs: int | None = None, resume: bool = True,
          out: str | os.PathLike | None = None,
          cache: str | os.PathLike | None = None, max_wall: str | None = None,
          max_memory: str | None = None,
          allow_outside: Outside | None = None) -> SweepResults:
    """Runs a sweep, a file or its content, and reads its table.

    A dict is called `name`; paths in it are relative to a temporary folder, so name shipped files
    ("nearkv:...") or absolute ones. Results are in `out`/NAME (default: "results" for a file, a
    temporary folder for a dict). With `resume`, points that have a result there are not run again;
    without, all are. A point that takes longer than `max_wall` ("10min") or more memory than
    `max_memory` ("4GiB") is stopped. `allow_outside` is that of run(). Points that fail or are
    stopped are rows: look at the column status. Raises Error for a sweep that is refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = written(sweep, folder, name)
        place = Path(out) if out is not None else Path(folder if file.parent == Path(folder)
                                                       else "results")
        arguments: list[str | os.PathLike] = ["sweep", file, "--json", "--out", place,
                                              "--resume" if resume else "--again",
                                              *limits(max_wall, max_memory),
                                              *allowing(allow_outside, sweep)]
        if jobs is not None:
            arguments += ["--jobs", str(jobs)]
        if cache is not None:
            arguments += ["--cache", cache]
        call(*arguments, fails=(POINTS_FAILED,))
        return read(place / file.stem)
