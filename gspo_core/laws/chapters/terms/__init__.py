"""Laws about what stands beside an objective: a KL term, a sampler correction."""
