"""From a validated configuration to the objects of a run; the only room that imports plugs."""
