"""The project's CUDA kernels on a CPU, and a stand-in for CuPy that launches them there: see README.md."""

ORDERS = ("forward", "backward", "shuffled:1", "shuffled:2")
"""Orders of threads and blocks in which tests run kernels: values of ``CKNCUDA_CPU_ORDER``."""
