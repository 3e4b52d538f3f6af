"""How sensitive a result is to constants and design parameters.

A specification is a JSON file or a dict:

    {
      "title": "Does InstI-Dense stay above 4 token/s?",
      "systems": {"insti_dense": {"extends": "nearkv:design_points/..."}},
      "value": {"metric": "throughput", "of": "insti_dense"},
      "above": 4,
      "parameters": [
        {"path": "/csd/0/controller/command_cost"},
        {"path": "/csd/0/flash/t_read", "range": {"from": "20us", "to": "60us", "scale": "log"}}
      ],
      "method": {"kind": "sobol", "base_samples": 1024, "seed": 1}
    }

A parameter without a range is a constant that goes through its own distribution, the 90 % interval
of the config. "parameters": "uncertain" takes all constants that have one. With {"metric": ...,
"of": A, "over": B} the value is the ratio of two systems; a parameter that a system lacks does not
move it. Methods: tornado (each parameter alone, to the ends of its interval or range), morris
(mean and spread of elementary effects; "trajectories", "levels"), sobol (first-order and total
indices; "base_samples", a power of two; with "second_order": true those of pairs as well, of nearly
twice as many runs). Morris and Sobol are SALib's (pip install SALib).
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .program import Outside
from .records import Record, run
from .sweeps import SweepResults, sweep

if TYPE_CHECKING:
    import numpy

METHODS = {"tornado": set(), "morris": {"trajectories", "levels"},
           "sobol": {"base_samples", "second_order"}}
MOST_PARAMETERS = 10_000
INTERVAL = (0.05, 0.95)  # the ends of a 90 % interval as probabilities
INSIDE = 1e-6  # shares lie strictly between 0 and 1
LEAST_TOTAL = 0.8  # of total indices, which add up to 1 at least: a fifth below is no noise


class SpecError(ValueError):
    """A specification that says something impossible; the text names the JSON path."""


@dataclass
class Parameter:
    """What varies. `range` is None where it is a constant that has an interval."""

    path: str
    name: str
    range: dict | None = None

    def axis(self, shares: list[float]) -> dict:
        """The sweep axis with these shares."""
        values = {**(self.range or {}), "shares": shares}
        return {"path": self.path, "name": self.name,
                "interval" if self.range is None else "range": values}

    def ends(self) -> tuple[float, float]:
        return INTERVAL if self.range is None else (INSIDE, 1 - INSIDE)


@dataclass
class Spec:
    title: str
    systems: dict[str, Any]
    metric: str
    of: str
    over: str | None
    above: float | None
    below: float | None
    parameters: list[Parameter] | None  # None: all uncertain constants
    method: str
    settings: dict[str, int] = field(default_factory=dict)
    seed: int = 1

    @property
    def value_name(self) -> str:
        return f"{self.metric} of {self.of}" + (f" over {self.over}" if self.over else "")


@dataclass
class Analysis:
    """What came out.

    `rows`: a dict a parameter, the most important first; `values`: of all samples; `drawn`: what
    each parameter was in these, by its name, in SI units (of a tornado, which moves one at a time,
    nothing); `sentence`: the answer in words; `pairs`: second-order indices, where they are asked
    for.
    """

    spec: Spec
    nominal: float
    unit: str
    rows: list[dict[str, Any]]
    values: list[float]
    sentence: str
    drawn: dict[str, list[float]] = field(default_factory=dict)
    pairs: list[dict[str, Any]] = field(default_factory=list)


def _known(document: Mapping, known: set[str], place: str) -> None:
    for key in document:
        if key not in known:
            raise SpecError(f"{place}/{key}: unknown key; known here: {', '.join(sorted(known))}")


def _get(document: Mapping, key: str, kind: type | tuple, what: str, place: str = "") -> Any:
    value = document.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SpecError(f"{place}/{key}: must be {what}"
                        + (", and is missing" if key not in document else ""))
    return value


def _parameter(document: Any, place: str) -> Parameter:
    if not isinstance(document, Mapping):
        raise SpecError(f"{place}: must be an object with a path")
    _known(document, {"path", "name", "range"}, place)
    path = _get(document, "path", str, "the path of a value in the design points", place)
    path = path if path.startswith("/") else "/" + path
    chosen = document.get("range")
    if chosen is not None:
        if not isinstance(chosen, Mapping):
            raise SpecError(f"{place}/range: must be an object with from and to")
        _known(chosen, {"from", "to", "scale"}, f"{place}/range")
    return Parameter(path, document.get("name", path.rsplit("/", 1)[1]), chosen)


def _count(document: Mapping, key: str, default: int, most: int) -> int:
    value = document.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise SpecError(f"/method/{key}: must be a whole number of 1 to {most}")
    return value


def load(document: str | os.PathLike | Mapping) -> Spec:
    """Reads and checks a specification. Raises SpecError."""
    if not isinstance(document, Mapping):
        file = Path(document)
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except RecursionError as problem:
            raise SpecError(f"{file}: is nested too deep") from problem
        except (OSError, ValueError) as problem:
            raise SpecError(f"{file}: {problem}") from problem
        if not isinstance(document, Mapping):
            raise SpecError(f"{file}: must be an object")
        folder = file.resolve().parent
        document = {**document, "systems": _absolute(document.get("systems"), folder)}
    _known(document, {"title", "systems", "value", "above", "below", "parameters", "method"}, "")
    systems = _get(document, "systems", Mapping, "an object of design points by name")
    value = _get(document, "value", Mapping, "an object with metric and of")
    _known(value, {"metric", "of", "over"}, "/value")
    for key in ("of", "over"):
        if (key == "of" or key in value) and value.get(key) not in systems:
            raise SpecError(f"/value/{key}: must be one of the systems: {', '.join(systems)}")
    for key in ("above", "below"):
        if key in document:
            _get(document, key, (int, float), "a number")
    if "above" in document and "below" in document:
        raise SpecError("/below: ask one question: above or below")
    method = _get(document, "method", Mapping, "an object with a kind")
    kind = method.get("kind")
    if kind not in METHODS:
        raise SpecError(f"/method/kind: must be one of {', '.join(METHODS)}")
    _known(method, {"kind", "seed", *METHODS[kind]}, "/method")
    return Spec(
        title=_get(document, "title", str, "what is asked, in one line"),
        systems=dict(systems),
        metric=_get(value, "metric", str, "the name of a metric", "/value"),
        of=value["of"], over=value.get("over"),
        above=document.get("above"), below=document.get("below"),
        parameters=_parameters(document.get("parameters")),
        method=kind, seed=_count(method, "seed", 1, 2 ** 32 - 1),
        settings=_settings(kind, method),
    )


def _parameters(document: Any) -> list[Parameter] | None:
    if document == "uncertain":
        return None
    if not isinstance(document, list) or not document:
        raise SpecError("/parameters: must be a list of parameters, or \"uncertain\"")
    if len(document) > MOST_PARAMETERS:
        raise SpecError(f"/parameters: has {len(document)}; at most {MOST_PARAMETERS} are varied")
    parameters = [_parameter(one, f"/parameters/{i}") for i, one in enumerate(document)]
    paths, names = set(), set()
    for i, one in enumerate(parameters):
        if one.path in paths:
            raise SpecError(f"/parameters/{i}/path: {one.path} is there twice")
        if one.name in names:
            raise SpecError(f"/parameters/{i}: \"{one.name}\" names two parameters; "
                            "give one of them another \"name\"")
        paths.add(one.path)
        names.add(one.name)
    return parameters


def _settings(kind: str, method: Mapping) -> dict[str, int]:
    if kind == "morris":
        return {"trajectories": _count(method, "trajectories", 20, 1 << 20),
                "levels": _count(method, "levels", 4, 1000)}
    if kind == "sobol":
        count = _count(method, "base_samples", 1024, 1 << 20)
        if count & (count - 1):
            raise SpecError("/method/base_samples: must be a power of two, as Sobol sequences "
                            f"are balanced there; {1 << count.bit_length() - 1} and "
                            f"{1 << count.bit_length()} are near")
        second_order = method.get("second_order", False)
        if not isinstance(second_order, bool):
            raise SpecError("/method/second_order: must be true or false")
        return {"base_samples": count, "second_order": second_order}
    return {}


def _absolute(systems: Any, folder: Path) -> Any:
    """Design points in the file's folder, from wherever the sweep's file is."""
    if isinstance(systems, list):
        return [_absolute(one, folder) for one in systems]
    if not isinstance(systems, Mapping):
        return systems
    made = {}
    for key, value in systems.items():
        if key == "extends":
            bases = value if isinstance(value, list) else [value]
            made[key] = [base if not isinstance(base, str) or base.startswith("nearkv:")
                         else str(folder / base) for base in bases]
        else:
            made[key] = _absolute(value, folder)
    return made


# -- Running -----------------------------------------------------------------------------------


def _has(config: Any, path: str) -> bool:
    for part in path.strip("/").split("/"):
        if isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, Mapping) and part in config:
            config = config[part]
        else:
            return False
    return True


def _uncertain(records: Mapping[str, Record]) -> list[Parameter]:
    """All constants of the records that have an interval, each by its path."""
    paths = {}
    for record in records.values():
        for source in ("assumed", "fit"):
            for constant in record.document["constants"].get(source, []):
                if constant.get("interval"):
                    paths.setdefault(constant["path"])
    return [Parameter(path, path.strip("/").replace("/", "_").replace("-", "_"))
            for path in sorted(paths)]


class _Runner:
    """Values of the specification at rows of shares."""

    def __init__(self, spec: Spec, jobs: int | None, out: Path,
                 cache: str | os.PathLike | None, run_options: dict):
        self.spec, self.jobs, self.out, self.cache = spec, jobs, out, cache
        self.run_options = run_options
        names = [spec.of] + ([spec.over] if spec.over else [])
        self.records = {name: run(spec.systems[name], name=name, out=out / "nominal",
                                  **run_options)
                        for name in names}
        for name, record in self.records.items():
            if record.status != "ok":
                raise SpecError(f"/systems/{name}: does not run: {record.status} "
                                f"{record.document['status_detail']}")
            if spec.metric not in record:
                raise SpecError(f"/value/metric: {name} has no metric \"{spec.metric}\"; see "
                                "nearkv describe metrics")
        self.unit = "1" if spec.over else self.records[spec.of].unit(spec.metric)
        self.parameters = (_uncertain(self.records) if spec.parameters is None
                           else spec.parameters)
        for i, parameter in enumerate(self.parameters):
            if not any(_has(record.document["config"], parameter.path)
                       for record in self.records.values()):
                raise SpecError(f"/parameters/{i}/path: {parameter.path}: no system has it")
        self.nominal = self.ratio({name: record[spec.metric]
                                   for name, record in self.records.items()})
        self.pairs: list[dict[str, Any]] = []  # second-order indices
        self.drawn: dict[str, list[float]] = {}  # of samples that move all parameters
        self.drawn_units: dict[str, str] = {}

    def ratio(self, values: Mapping[str, Any]) -> Any:
        return (values[self.spec.of] / values[self.spec.over] if self.spec.over
                else values[self.spec.of])

    def values(self, shares: numpy.ndarray, moved: list[Parameter]) -> numpy.ndarray:
        """One a row of shares of the moved parameters; the others stay as they are.

        Not a number where a system did not run.
        """
        return self.ratio({name: self._metric(name, record, shares, moved)
                           for name, record in self.records.items()})

    def _metric(self, system: str, record: Record, shares: numpy.ndarray,
                moved: list[Parameter]) -> Any:
        axes = [parameter.axis(shares[:, i].tolist()) for i, parameter in enumerate(moved)
                if _has(record.document["config"], parameter.path)]
        if not axes:
            return record[self.spec.metric]
        name = f"{system}.{moved[0].name}" if len(moved) < len(self.parameters) else system
        document = {"title": self.spec.title, "point": self.spec.systems[system],
                    "axes": axes if len(axes) == 1 else [{"zip": axes}],
                    "metrics": [self.spec.metric]}
        results = sweep(document, name=name, jobs=self.jobs, out=self.out, cache=self.cache,
                        resume=(self.out / name / "journal.sqlite").exists()
                        and _same_sweep(self.out / f"{name}.json", document), **self.run_options)
        (self.out / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
        if self.spec.metric not in results.frame:
            raise SpecError(f"/systems/{system}: no sample ran: "
                            f"{results.frame['detail'].iloc[0]}")
        if len(moved) == len(self.parameters) and self.spec.method != "tornado":
            self._keep_drawn(results, [axis["name"] for axis in axes])
        return results.frame[self.spec.metric].to_numpy(dtype=float)

    def _keep_drawn(self, results: SweepResults, names: list[str]) -> None:
        for name in names:
            self.drawn[name] = results.frame[name].tolist()
            self.drawn_units[name] = results.units[name]


def _same_sweep(file: Path, document: dict) -> bool:
    try:
        return json.loads(file.read_text(encoding="utf-8")) == document
    except (OSError, ValueError):
        return False


# -- Methods -----------------------------------------------------------------------------------


def _salib() -> Any:
    try:
        import SALib
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "SALib is missing: pip install SALib, in a virtual environment (python3 -m venv; it "
            "brings its own pandas)", name="SALib") from missing
    return SALib


def _tornado(runner: _Runner) -> tuple[list[dict], list[float]]:
    import numpy

    rows, values = [], []
    for parameter in runner.parameters:
        low, high = runner.values(numpy.array([[end] for end in parameter.ends()]),
                                  [parameter]) + numpy.zeros(2)
        rows.append({"parameter": parameter.name, "path": parameter.path,
                     "at_low": float(low), "at_high": float(high)})
        values += [float(low), float(high)]
    for row in rows:
        row["swing"] = abs(row["at_high"] - row["at_low"])
    return sorted(rows, key=lambda row: -row["swing"]), values


def _problem(runner: _Runner) -> dict:
    return {"num_vars": len(runner.parameters),
            "names": [parameter.name for parameter in runner.parameters],
            "bounds": [list(parameter.ends()) for parameter in runner.parameters]}


def _all_ran(values: numpy.ndarray) -> numpy.ndarray:
    import numpy

    missing = int(numpy.isnan(values).sum())
    if missing:
        raise SpecError(f"/parameters: {missing} of {len(values)} samples did not run (column "
                        "detail of the sweep's table says why); narrow the ranges")
    return values


def _morris(runner: _Runner) -> tuple[list[dict], list[float]]:
    _salib()
    from SALib.analyze import morris as analysis
    from SALib.sample import morris as sampling

    problem, settings = _problem(runner), runner.spec.settings
    shares = sampling.sample(problem, settings["trajectories"], num_levels=settings["levels"],
                             seed=runner.spec.seed)
    values = _all_ran(runner.values(shares, runner.parameters))
    found = analysis.analyze(problem, shares, values, num_levels=settings["levels"],
                             seed=runner.spec.seed)
    rows = [{"parameter": parameter.name, "path": parameter.path,
             **{key: float(found[key][i]) for key in ("mu", "mu_star", "mu_star_conf", "sigma")}}
            for i, parameter in enumerate(runner.parameters)]
    return sorted(rows, key=lambda row: -row["mu_star"]), values.tolist()


def _sobol(runner: _Runner) -> tuple[list[dict], list[float]]:
    _salib()
    from SALib.analyze import sobol as analysis
    from SALib.sample import sobol as sampling

    problem = _problem(runner)
    for bounds in problem["bounds"]:
        bounds[:] = [INSIDE, 1 - INSIDE]
    has_pairs = bool(runner.spec.settings["second_order"])
    shares = sampling.sample(problem, runner.spec.settings["base_samples"],
                             calc_second_order=has_pairs, seed=runner.spec.seed)
    values = _all_ran(runner.values(shares, runner.parameters))
    found = analysis.analyze(problem, values, calc_second_order=has_pairs, seed=runner.spec.seed)
    names = [parameter.name for parameter in runner.parameters]
    if has_pairs:
        runner.pairs = [
            {"first": names[i], "second": names[j], "S2": float(found["S2"][i][j]),
             "S2_conf": float(found["S2_conf"][i][j])}
            for i, j in itertools.combinations(range(len(names)), 2)]
    rows = [{"parameter": parameter.name, "path": parameter.path,
             **{key: float(found[key][i]) for key in ("S1", "S1_conf", "ST", "ST_conf")}}
            for i, parameter in enumerate(runner.parameters)]
    return sorted(rows, key=lambda row: -row["ST"]), values.tolist()


def _sentence(runner: _Runner, rows: list[dict], values: list[float]) -> str:
    import numpy

    spec, unit = runner.spec, "" if runner.unit == "1" else f" {runner.unit}"
    seen = numpy.array([value for value in values if value == value])
    low, median, high = numpy.quantile(seen, [*INTERVAL[:1], 0.5, *INTERVAL[1:]])
    text = f"The {spec.value_name} is {runner.nominal:.4g}{unit}"
    if spec.method == "tornado":
        text += f", and between {seen.min():.4g} and {seen.max():.4g} with one parameter moved"
    else:
        text += (f"; over {len(seen)} samples its median is {median:.4g}, and 90 % lie between "
                 f"{low:.4g} and {high:.4g}")
    limit = spec.above if spec.above is not None else spec.below
    if limit is not None:
        side = "above" if spec.above is not None else "below"
        share = float(numpy.mean(seen > limit if spec.above is not None else seen < limit))
        text += (f". It stays {side} {limit:g} in all of them" if share == 1 else
                 f". It is {side} {limit:g} in {100 * share:.3g} % of them")
    first = rows[0]
    if spec.method == "tornado":
        text += f". {first['parameter']} moves it most, by {first['swing']:.3g}{unit}"
    elif spec.method == "morris":
        text += (f". {first['parameter']} moves it most: {first['mu_star']:.3g} +- "
                 f"{first['mu_star_conf']:.2g}{unit} over its interval")
    else:
        text += (f". {first['parameter']} explains most of its variance: {100 * first['S1']:.3g} "
                 f"+- {100 * first['S1_conf']:.2g} % alone, {100 * first['ST']:.3g} +- "
                 f"{100 * first['ST_conf']:.2g} % with what it does together with others")
        total = sum(row["ST"] for row in rows)
        if total < LEAST_TOTAL:
            text += (f". These indices cannot be right, as those with others add up to only "
                     f"{100 * total:.2g} %: take more base_samples")
    return text + "."


def _write_samples(file: Path, runner: _Runner, values: list[float]) -> None:
    """A row a sample: each parameter in the specification's order, and the value."""
    drawn = {name: runner.drawn[name] for name in
             (parameter.name for parameter in runner.parameters) if name in runner.drawn}
    titles = [f"{name} [{runner.drawn_units[name]}]" for name in drawn]
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow([*titles, f"value [{runner.unit}]"])
        writer.writerows(zip(*drawn.values(), values))


def analyse(document: str | os.PathLike | Mapping, out: str | os.PathLike,
            jobs: int | None = None, cache: str | os.PathLike | None = None,
            max_wall: str | None = None, max_memory: str | None = None,
            allow_outside: Outside | None = None) -> Analysis:
    """Runs an analysis; its sweeps and tables are in the folder `out`.

    Its systems may name all files, or those that `allow_outside` says (as in run()).

    A run that was interrupted goes on. Writes sensitivity.csv (a row a parameter),
    sensitivity.json and, of Morris and Sobol, samples.csv (a row a sample). A run that takes longer
    than `max_wall` ("10min") or more memory than `max_memory` ("4GiB") is stopped. Raises SpecError
    and Error.
    """
    spec = load(document)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    runner = _Runner(spec, jobs, folder, cache,
                     {"max_wall": max_wall, "max_memory": max_memory,
                      "allow_outside": allow_outside})
    method = {"tornado": _tornado, "morris": _morris, "sobol": _sobol}[spec.method]
    rows, values = method(runner)
    analysis = Analysis(spec, runner.nominal, runner.unit, rows, values,
                        _sentence(runner, rows, values), runner.drawn, runner.pairs)
    samples = folder / "samples.csv"
    samples.unlink(missing_ok=True)  # of an earlier run with another method
    if runner.drawn:
        _write_samples(samples, runner, values)
    with open(folder / "sensitivity.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "sensitivity.json").write_text(json.dumps(
        {"title": spec.title, "value": spec.value_name, "unit": runner.unit,
         "nominal": runner.nominal, "method": spec.method, "above": spec.above,
         "below": spec.below, "sentence": analysis.sentence, "pairs": analysis.pairs,
         "values": values},
        indent=2) + "\n", encoding="utf-8")
    return analysis
