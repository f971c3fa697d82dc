"""Tables over one cache: one row for each combination of settings; rows share what they have in common."""
