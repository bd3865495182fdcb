# llama-cpp-python forces LLAMA_BUILD_COMMON on in CMake's cache. An ordinary variable of the same
# name, set as its project begins, hides the cache's entry (policy CMP0126), so that llama.cpp's
# command line library, which nothing installed needs, is neither built nor installed.
set(LLAMA_BUILD_COMMON OFF)
