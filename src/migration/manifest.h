#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "migration/migration_id.h"

namespace vmm::migration {

// Caps of the manifest's parts, which both encoder and decoder apply.
inline constexpr unsigned kMaxManifestVcpus = 16;
inline constexpr std::size_t kMaxManifestDevices = 32;
inline constexpr std::size_t kMaxManifestName = 64;
inline constexpr std::size_t kMaxManifestFileName = 255;
inline constexpr std::size_t kMaxManifestSerial = 20;
inline constexpr std::size_t kMaxManifestCmdline = 2047;
inline constexpr std::size_t kMaxManifestVersion = 256;
inline constexpr std::size_t kMaxManifestCpuIdentity = 256U << 10;
inline constexpr std::uint64_t kManifestMemoryUnit = 2ULL << 20;
inline constexpr std::uint64_t kMaxManifestMemory = 1ULL << 40;

// What the source says about a guest before any of its memory moves: enough to build the same
// machine and to refuse one that could not go on. No path, tap or socket is in it: the destination
// has its own for each id.
struct Manifest {
  MigrationId id;
  std::string guest;  // 1 to 64 letters, digits, '.', '_', '-'; the first a letter or digit

  std::uint32_t machine_version = 0;  // of the guest-physical layout and the devices' states
  std::uint32_t vcpus = 1;            // 1 to kMaxManifestVcpus
  std::uint64_t memory = 0;           // bytes, a multiple of kManifestMemoryUnit
  bool hugetlb = false;
  struct Cpu {
    bool sve = false;
    bool pauth = false;
    bool pmu = false;
    [[nodiscard]] bool operator==(const Cpu&) const = default;
  } cpu;
  bool virtio_console = false;
  bool rng = false;
  bool balloon = false;

  struct Disk {
    std::string id;          // as a guest's name; in no other disk
    std::uint64_t size = 0;  // bytes
    bool read_only = false;
    bool direct = false;
    std::string serial;     // 1 to 20 bytes
    std::string file_name;  // of the image, without folders: for messages, and for --allow-path
    [[nodiscard]] bool operator==(const Disk&) const = default;
  };
  std::vector<Disk> disks;  // in the guest's order
  struct Net {
    std::string id;  // as a guest's name; in no other net
    std::array<std::uint8_t, 6> mac{};
    [[nodiscard]] bool operator==(const Net&) const = default;
  };
  std::vector<Net> nets;  // in the guest's order

  struct Boot {
    std::string kernel;  // file name without folders
    std::string initrd;  // the same, or empty: none
    std::string cmdline;
    [[nodiscard]] bool operator==(const Boot&) const = default;
  } boot;

  std::uint32_t page_size = 0;  // of the source host, bytes
  std::string vmm_version;
  std::string kernel_version;           // of the source host
  std::vector<std::byte> cpu_identity;  // opaque here: made and compared by those who know KVM

  std::uint16_t channels = 1;  // data channels the source would like, 1 to kMaxDataChannels
  bool paused = false;         // the operator has paused the guest: it arrives paused

  [[nodiscard]] bool operator==(const Manifest&) const = default;
};

// Error (kFailed, naming the field) unless each field keeps to what is said above.
[[nodiscard]] Result<> check(const Manifest& manifest);

// Error as for check(): what the other side would refuse is not sent.
[[nodiscard]] Result<std::vector<std::byte>> encode(const Manifest& manifest);
// Takes nothing on trust: every length and count is capped before anything is allocated, and
// check() holds for what is returned. Bytes that decode are the ones encode() makes of the result.
[[nodiscard]] Result<Manifest> decode_manifest(std::span<const std::byte> bytes);

}  // namespace vmm::migration
