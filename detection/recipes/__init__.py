"""Published protocols and our own, as `memreplay reproduce` runs them."""
