"""Every mistake in a trace or a workload, and every misuse of `nearkv replay`, has its message.

The cases are in bad_traces/; their form and the options are those of bad_configs_check.py.
"""

import sys
from pathlib import Path

import bad_configs_check

bad_configs_check.CASES = Path(__file__).resolve().parent / "bad_traces"
bad_configs_check.FEWEST_CASES = 40

if __name__ == "__main__":
    sys.exit(bad_configs_check.main())
