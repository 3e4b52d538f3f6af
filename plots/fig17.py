"""Figure 17: throughput against batch size, Llama-2-13B."""

import bars

bars.main()
