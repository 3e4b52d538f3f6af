"""Figure 19: where the decode time goes at a compression of 1/8."""

import shares

shares.main({("flexgen_sparq", "64"): "C17a", ("insti_sparf", "64"): "C17b",
             ("insti_sparf_2", "64"): "C17c"})
