"""A simulated Franka Panda at a table, seen by one exterior camera (MuJoCo, headless)."""
