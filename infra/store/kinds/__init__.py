"""The kinds of stores: each module registers one, by the scheme of its addresses."""
