"""Figure 15: throughput against batch size, one drive and two."""

import bars

bars.main()
