"""Loops over vector registers, written as LLVM's instructions."""
