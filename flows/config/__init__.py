"""What a run is asked to do: stages, recipes, policies, changes."""
