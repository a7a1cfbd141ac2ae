"""Laws about the arrays that go in and come out: masks, layouts, sizes, precision, extremes, constants, reports."""
