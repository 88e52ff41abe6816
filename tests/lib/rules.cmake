# What `make install` puts down, from outside. Not under sanitizers, whose libraries ask for their flags.
if(TARGET libtandem_shared)
  add_test(NAME lib.install COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/test_install.sh ${PROJECT_BINARY_DIR}
           ${PROJECT_SOURCE_DIR}/tests/data/gptoss-tiny.gguf ${PROJECT_SOURCE_DIR}/examples/complete.c
           ${CMAKE_C_COMPILER})
  set_tests_properties(lib.install PROPERTIES LABELS quick SKIP_RETURN_CODE 77)
endif()
