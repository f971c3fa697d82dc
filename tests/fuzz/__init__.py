"""Random input to all readers of user files and options: each input is accepted, or refused in one sentence."""
