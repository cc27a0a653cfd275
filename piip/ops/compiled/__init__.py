"""The sources in `csrc/`, compiled and loaded: for the CPU, for CUDA, and a look at what nvcc made of them."""
