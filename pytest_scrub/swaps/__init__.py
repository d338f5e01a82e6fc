"""What a hypothesis allows: slots, swap sets, and the space of all of them."""
