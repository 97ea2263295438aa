"""What every stage has in common."""
