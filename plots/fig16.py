"""Figure 16: throughput against batch size, OPT-30B on two GPUs."""

import bars

bars.main()
