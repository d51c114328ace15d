"""A run of the planner as one self-contained HTML page."""
