# End-to-end tests: shell scripts that run the program.
if(TARGET tandem)
  add_executable(pty ${CMAKE_CURRENT_SOURCE_DIR}/app/pty.c)
  target_link_libraries(pty PRIVATE td_flags)
  target_compile_definitions(pty PRIVATE _XOPEN_SOURCE=700 _DEFAULT_SOURCE _DARWIN_C_SOURCE)
  foreach(script mistakes commands eval plan signals chat prefill serve serve_prefill)
    add_test(NAME app.${script}
      COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/app/test_${script}.sh $<TARGET_FILE:tandem>
        ${CMAKE_CURRENT_SOURCE_DIR}/data $<TARGET_FILE:pty>)
    set_tests_properties(app.${script} PROPERTIES LABELS quick TIMEOUT 300 SKIP_RETURN_CODE 77)
    if(script MATCHES "signals|chat|prefill")
      # They type at moments: not beside others that take the CPU.
      set_tests_properties(app.${script} PROPERTIES RUN_SERIAL TRUE)
    endif()
  endforeach()
  find_program(TD_PYTHON python3)
  if(TD_PYTHON)
    add_test(NAME app.compare
      COMMAND ${TD_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/app/test_compare.py
        ${PROJECT_SOURCE_DIR}/bench/compare.py $<TARGET_FILE:tandem>
        ${CMAKE_CURRENT_SOURCE_DIR}/data/gptoss-tiny.gguf)
    set_tests_properties(app.compare PROPERTIES LABELS quick TIMEOUT 300)
    add_test(NAME app.serve_hostile
      COMMAND ${TD_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/app/test_serve_hostile.py
        $<TARGET_FILE:tandem> ${PROJECT_SOURCE_DIR}/models/tandem-mini.gguf)
    set_tests_properties(app.serve_hostile PROPERTIES LABELS quick TIMEOUT 300)
  else()
    foreach(name compare serve_hostile)
      add_test(NAME app.${name} COMMAND sh -c "echo 'skipped: python3 is not installed'; exit 77")
      set_tests_properties(app.${name} PROPERTIES LABELS quick SKIP_RETURN_CODE 77)
    endforeach()
  endif()
endif()
