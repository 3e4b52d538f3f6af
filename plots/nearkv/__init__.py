"""NearKV from Python: run design points, run sweeps, read their tables.

    import nearkv

    point = nearkv.shipped("design_points/insti_dense_opt13b_a6000.json")
    record = nearkv.run({**point, "workload": {"batch": 16}}, name="batch_16")
    print(record["throughput"], record.unit("throughput"))

    results = nearkv.sweep("configs/sweeps/flash_geometry.json")
    results.frame.groupby("channels")["throughput"].max()

The program is the one that $NEARKV_BINARY names, else the entry script of this checkout, which
builds it when it must. Problems are raised as `nearkv.Error` with the program's own message.
"""

from .program import Error
from .records import Record, run, shipped
from .sweeps import SweepResults, read, sweep

__all__ = ["Error", "Record", "SweepResults", "read", "run", "shipped", "sweep"]
