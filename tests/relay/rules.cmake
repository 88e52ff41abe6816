# The link's speed beside a bare TLS loop; in the tests only that it runs.
add_executable(bench_link ${PROJECT_SOURCE_DIR}/bench/bench_link.c)
target_link_libraries(bench_link PRIVATE td_relay)
add_test(NAME bench_link COMMAND bench_link 8 1)
# Times in these tests are real.
set_tests_properties(test_link test_listen PROPERTIES TIMEOUT 120)
# Faults between the two ends: a library for tests, a program for campaigns (bench/faults.py).
add_library(td_fault_proxy STATIC relay/fault_proxy.c relay/fault_plan.c)
target_link_libraries(td_fault_proxy PUBLIC td_base)
target_link_libraries(test_fault_proxy PRIVATE td_fault_proxy)
target_link_libraries(test_relay PRIVATE td_fault_proxy)
add_executable(fault_proxy relay/fault_proxy_main.c)
target_link_libraries(fault_proxy PRIVATE td_fault_proxy)
