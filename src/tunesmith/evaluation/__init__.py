"""Generate, listen, compare: what it takes to say in numbers what an adapter did."""
