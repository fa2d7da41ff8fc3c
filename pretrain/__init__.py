"""Scripts that make the embedded base model ``pocket`` from nothing: no network, no downloaded weights."""
