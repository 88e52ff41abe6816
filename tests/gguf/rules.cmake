target_link_options(test_gguf_nomem PRIVATE -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc)
