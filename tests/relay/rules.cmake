# The link's speed beside a bare TLS loop; in the tests only that it runs.
add_executable(bench_link ${PROJECT_SOURCE_DIR}/bench/bench_link.c)
target_link_libraries(bench_link PRIVATE td_relay)
add_test(NAME bench_link COMMAND bench_link 8 1)
# Times in these tests are real.
set_tests_properties(test_link test_listen PROPERTIES TIMEOUT 120)
# Faults between the two ends: a library for tests, a program for campaigns (bench/faults.py).
add_library(td_fault_proxy STATIC relay/fault_proxy.c relay/fault_plan.c)
target_link_libraries(td_fault_proxy PUBLIC td_base)
target_include_directories(td_fault_proxy PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/relay)
target_link_libraries(test_fault_proxy PRIVATE td_fault_proxy)
target_link_libraries(test_relay PRIVATE td_fault_proxy)
target_link_libraries(test_faults PRIVATE td_fault_proxy)
target_link_libraries(test_predict PRIVATE td_fault_proxy)
set_tests_properties(test_faults PROPERTIES TIMEOUT 300)
# At paces, some twenty seconds of them.
set_tests_properties(test_predict PROPERTIES LABELS check TIMEOUT 300 SKIP_RETURN_CODE 77)
add_executable(fault_proxy relay/fault_proxy_main.c)
target_link_libraries(fault_proxy PRIVATE td_fault_proxy)
# What a relayed prompt does when, for bench/timeline.py; and the planner's formula by hand.
add_executable(trace_relay ${PROJECT_SOURCE_DIR}/bench/trace_relay.c)
target_link_libraries(trace_relay PRIVATE td_relay td_fault_proxy)
add_executable(split_says ${PROJECT_SOURCE_DIR}/bench/split_says.c)
target_link_libraries(split_says PRIVATE td_plan)
# A model too large for the tests, by hand.
add_executable(relay_bits ${PROJECT_SOURCE_DIR}/bench/relay_bits.c)
target_link_libraries(relay_bits PRIVATE td_relay)
