# Engine tests that compare with the independent reference, and the one that counts allocations.
foreach(name test_vectors test_shapes)
  if(TARGET ${name})
    target_link_libraries(${name} PRIVATE td_reference)
  endif()
endforeach()
if(TARGET test_no_alloc)
  target_link_options(test_no_alloc PRIVATE -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc)
endif()
