# The independent reference forward pass and vector readers, for the tests of every floor.
add_library(td_reference STATIC reference/ref_gptoss.c reference/vectors.c)
target_include_directories(td_reference PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(td_reference PUBLIC td_gguf td_base)
foreach(name test_reference test_synth)
  if(TARGET ${name})
    target_link_libraries(${name} PRIVATE td_reference)
  endif()
endforeach()
