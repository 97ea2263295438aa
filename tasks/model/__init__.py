"""Networks: backbones, heads, ensembles, saving."""
