"""Control: the receding-horizon loop over any world, its goals, and the safety layer on its path."""
