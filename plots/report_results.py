"""Reads what `nearkv figure` left in a results folder: tables, claims, records, pictures.

Records and claims are taken as they are; nothing is computed here but lists and counts. A file
that is not as the program writes it is BadResults, with its path.
"""

import base64
import csv
import json
from pathlib import Path

RECORD_FORMAT = 1
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"  # the last chunk and its checksum
CLAIM_KEYS = {"id", "text", "role", "source", "detail", "pass", "why"}
TIMELINES = "gantt"  # the figure that is drawn from timelines
UNCERTAIN = ("assumed", "fit", "override")  # what a reader must know of


class BadResults(Exception):
    """One line: the file and what is wrong with it."""


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadResults(f"{path}:{error.lineno}:{error.colno}: {error.msg}; is it cut "
                         "off?") from None
    except UnicodeDecodeError:
        raise BadResults(f"{path}: is no text") from None
    except OSError as error:
        raise BadResults(f"{path}: cannot be read: {error.strerror}") from None


class Table:
    """A CSV whose columns are called "name" or "name [unit]"."""

    def __init__(self, path):
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadResults(f"{path}: is no CSV: {error}") from None
        except OSError as error:
            raise BadResults(f"{path}: cannot be read: {error.strerror}") from None
        if not rows or not rows[0]:
            raise BadResults(f"{path}: is empty; a table has a line with its columns")
        self.path = path
        self.titles = rows[0]
        self.names, self.units = [], {}
        for title in rows[0]:
            name, _, unit = title.partition(" [")
            self.names.append(name)
            self.units[name] = unit.rstrip("]") or "1"
        for number, row in enumerate(rows[1:], 2):
            if len(row) != len(self.names):
                raise BadResults(f"{path}: row {number} has {len(row)} cells, and there are "
                                 f"{len(self.names)} columns")
        self.cells = rows[1:]
        self.rows = [dict(zip(self.names, row)) for row in rows[1:]]

    def number(self, row, name):
        """A cell as a number; None where it is empty or there is no such column."""
        text = row.get(name, "")
        try:
            return float(text) if text else None
        except ValueError:
            raise BadResults(f"{self.path}: {name}: {text!r} is no number") from None


def constants_of(config, path=""):
    """(path, constant) of every sourced constant in a resolved config."""
    if isinstance(config, dict):
        if "value" in config and isinstance(config.get("source"), str):
            yield path, config
            return
        for key, value in config.items():
            yield from constants_of(value, f"{path}/{key}")
    elif isinstance(config, list):
        for i, value in enumerate(config):
            yield from constants_of(value, f"{path}/{i}")


def text_of(value):
    return value if isinstance(value, str) else json.dumps(value)


def constant_key(path, constant):
    """What makes two uses of a constant the same one."""
    interval = constant.get("interval")
    return (path, text_of(constant["value"]), constant["source"], constant.get("citation", ""),
            " to ".join(map(text_of, interval)) if isinstance(interval, list) else "")


def is_told(claim):
    """Whether the records say something to it."""
    return claim.get("holds") is not None or claim.get("ours") is not None


class Figure:
    """All files of one figure."""

    def __init__(self, folder, name, stem, config):
        self.name = name
        self.stem = stem
        self.folder = Path(folder)
        self.config = read_json(config) if config else {}
        self.claims_file = self.file(".claims.json")
        # The one of timelines is no grid of points and has none.
        document = (read_json(self.claims_file) if name != TIMELINES else
                    {"title": self.config["title"], "source": self.config["source"], "claims": []})
        if not isinstance(document, dict) or not isinstance(document.get("claims"), list):
            raise BadResults(f"{self.claims_file}: is not what nearkv figure {name} writes")
        for claim in document["claims"]:
            if not isinstance(claim, dict) or not CLAIM_KEYS <= set(claim):
                raise BadResults(f"{self.claims_file}: /claims: one lacks some of "
                                 f"{', '.join(sorted(CLAIM_KEYS))}; make it again with nearkv "
                                 f"figure {name}")
        self.title = document.get("title", name)
        self.source = document.get("source", "")
        # What a quick figure leaves open is no miss.
        is_quick = document.get("quick") is True
        self.claims = [{**claim, "is_open": is_quick and not is_told(claim)}
                       for claim in document["claims"]]
        self.table = Table(self.file(".csv"))
        self.records = [self.read_record(path)
                        for path in sorted((self.folder / stem).glob("*.record.json"))]
        wall = self.file(".wall.json")
        self.wall = read_json(wall) if wall.exists() else {}

    def file(self, ending):
        return self.folder / (self.stem + ending)

    @staticmethod
    def read_record(path):
        record = read_json(path)
        if not isinstance(record, dict) or record.get("record_format") != RECORD_FORMAT:
            raise BadResults(f"{path}: /record_format: must be {RECORD_FORMAT}; is this a run "
                             f"record?")
        for key in ("config_hash", "config", "notes", "metrics", "status_detail"):
            if key not in record:
                raise BadResults(f"{path}: /{key}: missing; is the file whole?")
        return record

    def picture(self):
        """The PNG's bytes; None without."""
        path = self.file(".png")
        if not path.exists():
            return None
        png = path.read_bytes()
        if not png.startswith(PNG_SIGNATURE) or not png.endswith(PNG_END):
            raise BadResults(f"{path}: is no whole PNG picture")
        return png

    # -- What the records say ----------------------------------------------------------------

    def series_of_records(self):
        """(series, record); the table's rows say which series a record is of."""
        series = {row.get("config_hash"): row["series"] for row in self.table.rows
                  if "series" in row}
        return [(series.get(record["config_hash"], ""), record) for record in self.records]

    def notes(self):
        """(series that say it, note), once each."""
        found = {}
        for series, record in self.series_of_records():
            for note in record["notes"]:
                names = found.setdefault(note, [])
                if series and series not in names:
                    names.append(series)
        return [(self.in_order(names), note) for note, names in found.items()]

    def in_order(self, names):
        order = self.series_names()
        return sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    def constants(self):
        """The series that use it by constant_key()."""
        found = {}
        for series, record in self.series_of_records():
            for path, constant in constants_of(record["config"]):
                found.setdefault(constant_key(path, constant), set()).add(series)
        # Those of the figure itself; what its points have is in the records, resolved.
        own = {key: value for key, value in self.config.items()
               if key not in ("point", "points", "series")}
        for path, constant in constants_of(own, f"/figures/{self.name}"):
            found.setdefault(constant_key(path, constant), {""})
        return {key: self.in_order(found[key]) for key in sorted(found)}

    def metric_docs(self):
        return {metric["name"]: metric["doc"] for record in self.records
                for metric in record["metrics"]}

    # -- Its shape ---------------------------------------------------------------------------

    def axis(self):
        axis = self.config.get("axis")
        return axis if isinstance(axis, dict) else None

    def is_grid(self):
        """Whether the table has a row a series and value of an axis."""
        axis = self.axis()
        return bool(axis and {"series", axis.get("name"), "status"} <= set(self.table.names)
                    and self.table.rows)

    def series_names(self):
        return list(dict.fromkeys(row["series"] for row in self.table.rows if "series" in row))

    def axis_values(self):
        name = self.axis()["name"]
        return list(dict.fromkeys(row[name] for row in self.table.rows))


def data_address(picture):
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
