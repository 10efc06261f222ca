"""CUDA C++ sources, installed as data: one operation a file, common headers beside them."""
