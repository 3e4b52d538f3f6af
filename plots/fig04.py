"""Figure 4: throughput against batch size, with the KV cache in VRAM, host memory or SSD."""

import bars

bars.main()
