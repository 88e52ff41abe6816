# Extra rules of the server floor: tests with memory that runs out.
# Memory that runs out, at every call in turn.
target_link_options(test_api_nomem PRIVATE -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc)
# A disk that does not take what is written.
target_link_options(test_sched_disk PRIVATE -Wl,--wrap=write)
