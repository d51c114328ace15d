"""Planning: energies, optimisers over them, and the planner that puts both to work."""
