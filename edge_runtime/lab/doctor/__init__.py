"""`hobbit doctor`: is this machine fit for it? One check a trap, each a pure function of a `Device`."""
