"""Laws about functions beside a loss: group advantages and clip fractions."""
