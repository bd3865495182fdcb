# llama-cpp-python forces LLAMA_BUILD_COMMON on in CMake's cache. An ordinary variable of the same
# name, set as its project begins, hides the cache's entry (policy CMP0126), so that llama.cpp's
# command line library, which nothing installed needs, is neither built nor installed.
set(LLAMA_BUILD_COMMON OFF)

# GCC before 14 takes the eight first bytes of AMX's configuration for all of it (bug 114098) and
# drops what is written behind them: the first matrix product would end the process by SIGILL.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-U__AMX_INT8__>)
endif()
