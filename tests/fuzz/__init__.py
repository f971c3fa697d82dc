"""Random input to everything that reads what a user hands over: it works, or one sentence says why it does not."""
