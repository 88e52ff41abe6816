# The chat page in the program: web/dist where `make web` has made it, else web/missing. Building
# the program never runs Node.
file(GLOB_RECURSE td_page_dist CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/web/dist/*)
set(td_page_dir ${PROJECT_SOURCE_DIR}/web/dist)
if(NOT EXISTS ${td_page_dir}/index.html)
  set(td_page_dir ${PROJECT_SOURCE_DIR}/web/missing)
  file(GLOB_RECURSE td_page_dist CONFIGURE_DEPENDS ${td_page_dir}/*)
endif()
set(TD_PAGE_C ${PROJECT_BINARY_DIR}/page/page_files.c)
add_custom_command(OUTPUT ${TD_PAGE_C}
  COMMAND ${CMAKE_COMMAND} -DDIR=${td_page_dir} -DOUT=${TD_PAGE_C} -P ${PROJECT_SOURCE_DIR}/tools/page.cmake
  DEPENDS ${td_page_dist} ${PROJECT_SOURCE_DIR}/tools/page.cmake VERBATIM)
target_sources(td_server PRIVATE ${TD_PAGE_C})
