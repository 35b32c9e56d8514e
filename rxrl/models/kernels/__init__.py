"""Kernels of rxrl's own for x86-64 CPUs, built in C where a compiler is found when rxrl is installed; everything works without them."""

from rxrl.models.kernels.library import InstructionSet, instruction_set

__all__ = ["InstructionSet", "instruction_set"]
