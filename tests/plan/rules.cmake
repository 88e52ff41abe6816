# Memory that runs out, at every call in turn.
target_link_options(test_plan_nomem PRIVATE -Wl,--wrap=malloc,--wrap=calloc)
