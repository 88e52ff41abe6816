# What tests/quality/quality.py drives; scripts/check.sh runs that as a step of its own, so it is no
# test of ctest. The generator's tests are.
add_executable(answer_items ${CMAKE_CURRENT_LIST_DIR}/answer_items.c)
target_link_libraries(answer_items PRIVATE td_engine td_text td_relay)
find_program(TD_PYTHON python3)
if(TD_PYTHON)
  add_test(NAME quality.text COMMAND ${TD_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/test_text.py)
else()
  add_test(NAME quality.text COMMAND sh -c "echo 'skipped: python3 is not installed'; exit 77")
endif()
set_tests_properties(quality.text PROPERTIES LABELS quick SKIP_RETURN_CODE 77)
