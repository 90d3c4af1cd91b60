"""Which architectures can be eroded, exported and run, and what holds for each of them."""
