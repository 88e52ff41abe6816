# The library for others: include/tandem.h, libtandem.a, libtandem.so and tandem.pc. Both hold all
# floors up to lib/; the shared one gives out tandem_* alone (-fvisibility=hidden does that).
include(GNUInstallDirs)
set(floors td_lib td_engine td_plan td_backend td_text td_model td_gguf td_kernels td_base)
set(objects)
foreach(floor ${floors})
  list(APPEND objects $<TARGET_OBJECTS:${floor}>)
endforeach()
add_library(libtandem_static STATIC ${objects})
add_library(libtandem_shared SHARED ${objects})
set_target_properties(libtandem_static libtandem_shared PROPERTIES OUTPUT_NAME tandem LINKER_LANGUAGE C)
set_target_properties(libtandem_shared PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
target_link_libraries(libtandem_shared PRIVATE PkgConfig::PCRE2 PkgConfig::UTF8PROC PkgConfig::JANSSON Threads::Threads m)
# From tandem.pc to the prefix it was installed under, which `make install` chooses late.
file(RELATIVE_PATH TD_PC_PREFIX /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
configure_file(cmake/tandem.pc.in ${PROJECT_BINARY_DIR}/tandem.pc @ONLY)
install(TARGETS libtandem_static libtandem_shared DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/tandem.h DESTINATION include)
install(FILES ${PROJECT_BINARY_DIR}/tandem.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
