"""`hobbit tune`: measure, predict and try settings, and keep those that proved themselves on this machine."""
