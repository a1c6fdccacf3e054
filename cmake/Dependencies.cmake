# Libraries of the distribution. On arm64 they come from the sysroot, linked statically.
if(VMM_ARM64)
  # Programs for arm64 hosts are static: nothing of theirs needs to be installed there.
  set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
endif()
find_package(Threads REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(ZLIB REQUIRED)
find_package(OpenSSL 3 REQUIRED COMPONENTS SSL Crypto)
find_library(VMM_FDT_LIBRARY fdt REQUIRED)
find_library(VMM_URING_LIBRARY uring REQUIRED)

add_library(vmm_fdt_library INTERFACE)
target_link_libraries(vmm_fdt_library INTERFACE ${VMM_FDT_LIBRARY})

add_library(vmm_uring_library INTERFACE)
target_link_libraries(vmm_uring_library INTERFACE ${VMM_URING_LIBRARY})
