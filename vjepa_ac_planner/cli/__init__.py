"""The ``vjepa-ac`` command: parse, build, run; heavy imports happen inside the functions that need them."""
