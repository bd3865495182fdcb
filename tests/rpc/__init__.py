"""A model on more than one machine: llama.cpp's RPC, between network namespaces where it can be."""
