"""How much a claim says: false claims made from it, and where else it should not hold."""
