"""Figure 18: where the decode time goes, dense attention."""

import shares

shares.main({("flexgen", "64"): "C16a", ("insti_dense", "64"): "C16b",
             ("insti_dense_2", "64"): "C16c"})
