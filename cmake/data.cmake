# data/*.csv as arrays in C: the program needs no file at run time.
set(TD_DATA_C ${PROJECT_BINARY_DIR}/data/data.c)
set(td_data_files)
foreach(name devices models measurements calibration)
  list(APPEND td_data_files ${PROJECT_SOURCE_DIR}/data/${name}.csv)
endforeach()
list(APPEND td_data_files ${PROJECT_SOURCE_DIR}/data/engine.json)
# The page of `tandem plan -o html`.
foreach(name plan_page.html plan_style.css plan_core.js plan_view.js)
  list(APPEND td_data_files ${PROJECT_SOURCE_DIR}/src/app/${name})
endforeach()
add_custom_command(OUTPUT ${TD_DATA_C}
  COMMAND ${CMAKE_COMMAND} "-DFILES=${td_data_files}" -DOUT=${TD_DATA_C} -P ${PROJECT_SOURCE_DIR}/tools/embed.cmake
  DEPENDS ${td_data_files} ${PROJECT_SOURCE_DIR}/tools/embed.cmake VERBATIM)
