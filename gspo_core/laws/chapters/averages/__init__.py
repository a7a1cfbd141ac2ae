"""Laws about sums: who has which share of the loss, and in which parts a batch may be cut."""
