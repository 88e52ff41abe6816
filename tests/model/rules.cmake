foreach(name test_reference test_synth)
  if(TARGET ${name})
    target_link_libraries(${name} PRIVATE td_reference)
  endif()
endforeach()
# Writes tokens and logits of a model: only to make a new fixture, see tests/data/README.md.
add_executable(make_vectors EXCLUDE_FROM_ALL reference/make_vectors.c)
target_link_libraries(make_vectors PRIVATE td_reference td_model)
target_link_options(test_model_nomem PRIVATE -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc)
