"""dualdiff turns a folder of game music into a model that writes new music for a weighted mix of those games."""

__version__ = "0.1.0"
