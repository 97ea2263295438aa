"""The families of backbones, one module each; a module registers its backbones when it is imported."""
