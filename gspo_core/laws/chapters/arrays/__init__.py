"""Laws about the arrays that go in and come out: masks, layouts, precision, extremes, further inputs, reports."""
