# %% [markdown]
# # Does InstI-SparF stay above 5 times FlexGen?
#
# The ratio of two simulated systems rests on constants that nobody has published. Each has an
# interval that holds its true value with a probability of 90 %. First every constant goes to both
# ends of its interval alone (a tornado). Then those that matter vary together (Sobol's indices).

# %%
from settings import FOLDER, QUICK, WORKERS, show

import nearkv
from nearkv import sensitivity
from nearkv.shown import draw, table

LIMIT = 5
SMALL = {"prompt_tokens": 256, "output_tokens": 64, "batch": 4}
WORKLOAD = SMALL if QUICK else {"batch": 32}  # at which FlexGen is at its best
SYSTEMS = {
    name: {**nearkv.shipped(f"design_points/{name}_opt13b_a6000.json"), "workload": WORKLOAD}
    for name in ("insti_sparf", "flexgen")
}
question = {
    "title": f"Does InstI-SparF stay above {LIMIT} times FlexGen?",
    "systems": SYSTEMS,
    "value": {"metric": "throughput", "of": "insti_sparf", "over": "flexgen"},
    "above": LIMIT,
}

# %% [markdown]
# "parameters": "uncertain" would take all constants with an interval, those of power,
# prices and wear too, which no throughput depends on. The records list them all: leave these out.

# %%
NO_TIME_IN_IT = ("/power/", "/price", "/economics/", "/pe_cycles")


def uncertain_constants(record):
    """Paths of the fit and assumed constants of a run that have an interval."""
    return {constant["path"] for source in ("fit", "assumed")
            for constant in record.document["constants"].get(source, [])
            if constant.get("interval")}


paths = sorted(path for path in set.union(*(uncertain_constants(nearkv.run(point))
                                            for point in SYSTEMS.values()))
               if not any(part in path for part in NO_TIME_IN_IT))
if QUICK:
    paths = [path for path in paths if path.startswith(("/csd/0/flash", "/host/file_system"))]
parameters = [{"path": path, "name": path.strip("/").replace("/", "_")} for path in paths]
print(f"{len(parameters)} constants")

# %%
tornado = sensitivity.analyse(
    {**question, "parameters": parameters, "method": {"kind": "tornado"}}, FOLDER / "tornado",
    jobs=WORKERS)
print("\n".join(table(tornado).splitlines()[:14]))  # the others hardly move it
print(tornado.sentence)
show(draw(FOLDER / "tornado"))

# %% [markdown]
# Constants that move the ratio alone may do more together. Sobol's indices say which share of the
# variance each explains, alone and with what it does together with others.

# %%
MOST = 2 if QUICK else 3
most_important = [row["path"] for row in tornado.rows[:MOST]]
try:
    sobol = sensitivity.analyse(
        {**question,
         "parameters": [one for one in parameters if one["path"] in most_important],
         "method": {"kind": "sobol", "base_samples": 16 if QUICK else 64}},
        FOLDER / "sobol", jobs=WORKERS)
except ModuleNotFoundError as missing:
    sobol = None
    print(f"no Sobol indices: {missing}")
else:
    print(table(sobol))
    print(sobol.sentence)
    show(draw(FOLDER / "sobol"))

# %% [markdown]
# The answer in a sentence.

# %%
lowest = min(tornado.values + (sobol.values if sobol else []))
print(f"{'Yes' if lowest > LIMIT else 'No'}: nominally InstI-SparF has {tornado.nominal:.3g} times "
      f"FlexGen's throughput, and never less than {lowest:.3g} times in "
      f"{len(tornado.values) + (len(sobol.values) if sobol else 0)} runs with other constants; "
      f"most depends on {tornado.rows[0]['path']}.")
