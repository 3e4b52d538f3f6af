"""Figure 14: throughput against batch size, one drive."""

import bars

bars.main()
