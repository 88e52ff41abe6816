# Comparison of td_encode with the npm package tiktoken, a development dependency that goes to the
# build folder. Without node, or without a way to get the package, it says so and counts as skipped.
add_executable(encode_records ${CMAKE_CURRENT_LIST_DIR}/encode_records.c)
target_link_libraries(encode_records PRIVATE td_text)
find_program(TD_NODE node)
if(TD_NODE)
  add_test(NAME text.o200k COMMAND ${TD_NODE} ${CMAKE_CURRENT_LIST_DIR}/check_o200k.mjs
           $<TARGET_FILE:encode_records> ${PROJECT_BINARY_DIR}/o200k)
else()
  add_test(NAME text.o200k COMMAND sh -c "echo 'skipped: node is not installed'; exit 77")
endif()
set_tests_properties(text.o200k PROPERTIES LABELS check SKIP_RETURN_CODE 77 TIMEOUT 300)

# Apple's linker has no --wrap: the test then runs without a failure.
if(NOT APPLE)
  target_link_options(test_text_memory PRIVATE -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc)
endif()

if(TARGET tandem)
  add_test(NAME text.tokenize COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/test_tokenize.sh $<TARGET_FILE:tandem>
           ${PROJECT_SOURCE_DIR}/tests/data/gptoss-tiny.gguf)
  set_tests_properties(text.tokenize PROPERTIES LABELS quick)
endif()
