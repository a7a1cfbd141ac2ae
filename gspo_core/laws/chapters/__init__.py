"""The laws, one module per subject; `catalogue` lists all of them."""
