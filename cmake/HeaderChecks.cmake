# Two structural rules, checked while building:
#  - every header compiles on its own (first include of an otherwise empty source file), where
#    VMM_CHECK_HEADERS is on, as in the dev preset;
#  - dependencies point downward only: vmm -> migration, devices -> memory, kvm -> base, and
#    <linux/kvm.h> is included by src/kvm alone (cmake/check_dependencies.py).
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_custom_target(check_dependencies ALL
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/check_dependencies.py ${CMAKE_SOURCE_DIR}/src
  COMMENT "Checking include dependencies" VERBATIM)

# vmm_check_headers(LIBRARY HEADER...): compiles each header of the library by itself.
function(vmm_check_headers library)
  if(NOT VMM_CHECK_HEADERS)
    return()
  endif()
  set(sources)
  foreach(header IN LISTS ARGN)
    cmake_path(RELATIVE_PATH CMAKE_CURRENT_SOURCE_DIR BASE_DIRECTORY ${CMAKE_SOURCE_DIR}/src
               OUTPUT_VARIABLE directory)
    string(MAKE_C_IDENTIFIER "${directory}/${header}" name)
    set(source ${CMAKE_BINARY_DIR}/header-checks/${name}.cc)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${directory}/${header}\"\n")
    list(APPEND sources ${source})
  endforeach()
  add_library(${library}_header_check OBJECT ${sources})
  target_link_libraries(${library}_header_check PRIVATE ${library} vmm_flags)
endfunction()
