"""Figure 5: where FlexGen's decode time goes, by the tier that holds the KV cache."""

import shares

shares.main()
