# The link's speed beside a bare TLS loop; in the tests only that it runs.
add_executable(bench_link ${PROJECT_SOURCE_DIR}/bench/bench_link.c)
target_link_libraries(bench_link PRIVATE td_relay)
add_test(NAME bench_link COMMAND bench_link 8 1)
# Times in these tests are real.
set_tests_properties(test_link test_listen PROPERTIES TIMEOUT 120)
