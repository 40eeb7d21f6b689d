"""A page in which the models of a server are tried: what it is told of them, and why they answer so."""
