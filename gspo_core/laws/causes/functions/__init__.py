"""The causes of broken laws of functions beside a loss: group advantages and clip fractions."""
