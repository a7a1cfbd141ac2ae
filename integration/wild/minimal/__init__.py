"""Short programs for maintainers: each shows one number of a trainer beside the one expected, without this library."""
