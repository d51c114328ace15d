"""Goal-image planning for robot arms with the V-JEPA 2-AC world model."""

__version__ = "0.1.0"
