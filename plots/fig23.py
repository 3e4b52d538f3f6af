"""Figure 23: rate of the writes to the CSD's flash in prefill and in decode."""

import quantity_bars

quantity_bars.main(
    [("prefill write", "prefill", "#DDCC77", ""),
     ("decode write", "decode", "#332288", "////")],
    ("batch size (sequences)", "rate of writes (GB/s)", 1e-9))
