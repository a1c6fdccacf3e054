# Libraries of the distribution. On arm64 they come from the sysroot, linked statically.
find_package(Threads REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(ZLIB REQUIRED)
find_library(VMM_FDT_LIBRARY fdt REQUIRED)

add_library(vmm_fdt_library INTERFACE)
target_link_libraries(vmm_fdt_library INTERFACE ${VMM_FDT_LIBRARY})
