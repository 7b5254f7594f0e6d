"""Studies: what the number is worth, beside other numbers, with the statistics that say so."""
