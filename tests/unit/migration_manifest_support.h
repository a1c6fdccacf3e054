#pragma once

#include "migration/manifest.h"

namespace vmm::migration {

// A guest with one of everything.
inline Manifest full_manifest() {
  Manifest manifest;
  manifest.id = MigrationId::parse("00112233445566778899aabbccddeeff").value();
  manifest.guest = "web1";
  manifest.machine_version = 1;
  manifest.vcpus = 2;
  manifest.memory = 512ULL << 20;
  manifest.cpu.pauth = true;
  manifest.rng = true;
  manifest.disks = {{"root", 1ULL << 30, false, true, "root", "root.img"},
                    {"data", 1ULL << 20, true, false, "d-1", "data.img"}};
  manifest.nets = {{"lan", {0x52, 0x54, 0, 0x12, 0x34, 0x56}}};
  manifest.boot = {"Image", "initrd.gz", "console=ttyAMA0"};
  manifest.page_size = 4096;
  manifest.vmm_version = "0.1.0";
  manifest.kernel_version = "6.12.0";
  manifest.cpu_identity.assign(40, std::byte{0x5a});
  manifest.channels = 4;
  return manifest;
}

}  // namespace vmm::migration
