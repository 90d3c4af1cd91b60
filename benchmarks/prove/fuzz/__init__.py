"""Random input for everything that reads what a stranger wrote; led by coverage where it can be."""
