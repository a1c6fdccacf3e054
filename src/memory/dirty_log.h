#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "memory/dirty_bitmap.h"

namespace vmm {

// How the host finds out which pages a guest writes to.
enum class DirtyLogMode : std::uint8_t {
  kWriteProtect,  // a fault at the first write to each page
  kHardware,      // the CPU sets the dirty bit of the page's stage-2 descriptor
};
[[nodiscard]] constexpr std::string_view to_string(DirtyLogMode mode) {
  return mode == DirtyLogMode::kHardware ? "hw" : "wp";
}

// The host's log of the pages that a guest's vCPUs have written to. Page 0 is the start of RAM;
// bits are laid out as in DirtyBitmap.
//
//          start(mode)             stop()
//   off ------------------> on ------------> off        set_mode() while on
//
// Errors are of kind kHost. Threads: one at a time.
class DirtyLog {
 public:
  DirtyLog() = default;
  DirtyLog(const DirtyLog&) = delete;
  DirtyLog& operator=(const DirtyLog&) = delete;
  virtual ~DirtyLog() = default;

  [[nodiscard]] virtual std::uint64_t pages() const = 0;
  [[nodiscard]] virtual bool offers(DirtyLogMode mode) const = 0;

  // Turns logging on with every page counted as written: a page is watched once clear() has covered
  // it. Error for a mode that the host does not offer, or that the kernel does not itself say is in
  // force then, as a request that succeeds without effect would lose every write.
  [[nodiscard]] virtual Result<> start(DirtyLogMode mode) = 0;
  // Goes over to the other mode, with the same errors. No write is lost: those found so far stay in
  // the log.
  [[nodiscard]] virtual Result<> set_mode(DirtyLogMode mode) = 0;
  // Descriptors that the CPU was told to record the next write in, so far: grows with clear() in
  // hardware mode, or hardware logging records nothing.
  [[nodiscard]] virtual Result<std::uint64_t> armed() const = 0;

  // Copies the log, a bit per page, to exactly dirty_words(pages()) words; clears nothing.
  [[nodiscard]] virtual Result<> get(std::span<std::uint64_t> bits) = 0;
  // Takes pages out of the log and watches them from now on: those whose bit is set in `bits`,
  // which starts at range.first. range.first is a multiple of 64; so is range.count, unless the
  // range ends at pages().
  [[nodiscard]] virtual Result<> clear(PageRange range, std::span<const std::uint64_t> bits) = 0;
  // Ends logging; does nothing while off.
  [[nodiscard]] virtual Result<> stop() = 0;
};

}  // namespace vmm
