"""GBNF, llama.cpp's grammar notation: read, checked, matched, and written for llguidance."""
