"""Replay of recorded bags through the planner, and what it says about the planner."""
