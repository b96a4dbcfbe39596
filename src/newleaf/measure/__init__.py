"""How good a model is, in units that travel: what training and evaluation both need."""
