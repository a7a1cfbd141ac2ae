"""Laws about the formula: value, ratio and clip of the paper."""
