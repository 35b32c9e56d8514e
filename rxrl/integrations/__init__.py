"""Trainers of other libraries in the environment of rxrl, each in a module of its own; none of them is imported until it is used."""
