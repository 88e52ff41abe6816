# End-to-end tests: shell scripts that run the program.
if(TARGET tandem)
  foreach(script mistakes commands eval signals)
    add_test(NAME app.${script}
      COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/app/test_${script}.sh $<TARGET_FILE:tandem> ${CMAKE_CURRENT_SOURCE_DIR}/data)
    set_tests_properties(app.${script} PROPERTIES LABELS quick TIMEOUT 300)
  endforeach()
endif()
