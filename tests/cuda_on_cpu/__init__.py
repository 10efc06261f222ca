"""The project's CUDA kernels on a CPU, and a stand-in for CuPy that launches them there: see README.md."""
