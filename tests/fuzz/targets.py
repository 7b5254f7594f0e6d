"""Everything that reads strangers' bytes: one target a surface, bytes -> nothing, or an EmoeError."""

import beside_weights
import results_files
import users_files
import weights_files

TARGETS = weights_files.TARGETS | beside_weights.TARGETS | users_files.TARGETS | results_files.TARGETS
