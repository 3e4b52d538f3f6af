"""Figure 21: how long the units of the attention engine work in decode."""

import quantity_bars

quantity_bars.main(
    [("flash reads", "flash reads", "#CC6677", ""),
     ("attention kernels", "kernels with softmax", "#44AA99", "...."),
     ("GeMV units", "GeMV units", "#88CCEE", "////"),
     ("Logit-0", "of it Logit-0", "#332288", "")],
    ("batch size (sequences)", "busy in decode (s)", 1))
