# One warning set for every target of the project, as the interface library vmm_flags.
add_library(vmm_flags INTERFACE)
target_include_directories(vmm_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_options(vmm_flags INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -Werror
  $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>
  # What gcc's -Wconversion leaves out in C++, too.
  $<$<CXX_COMPILER_ID:Clang>:-Wno-sign-conversion>)
target_compile_definitions(vmm_flags INTERFACE
  FMT_HEADER_ONLY BOOST_ASIO_NO_DEPRECATED VMM_VERSION="${PROJECT_VERSION}")
if(VMM_SANITIZE)
  target_compile_options(vmm_flags INTERFACE
    -fsanitize=${VMM_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(vmm_flags INTERFACE -fsanitize=${VMM_SANITIZE})
  if(VMM_SANITIZE MATCHES thread)
    # ThreadSanitizer does not know fences, of which Asio has a few, and gcc warns of each.
    target_compile_options(vmm_flags INTERFACE -Wno-tsan)
  endif()
endif()
if(VMM_FUZZ)
  target_compile_options(vmm_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
