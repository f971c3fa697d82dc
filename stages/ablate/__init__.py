"""Tables over one cache: a row for every combination of settings; what rows share is computed once."""
