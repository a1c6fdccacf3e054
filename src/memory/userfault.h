#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <variant>

#include "base/fd.h"
#include "base/result.h"

namespace vmm {

// Memory of this process whose pages come when they are first touched, by whomever: a thread, KVM
// for a guest, or the kernel on behalf of a system call (userfaultfd(2), missing mode). Whoever
// touches one waits until it is installed. With the object that ends: who waits goes on, and what
// is not there reads as zero. Addresses are whole pages of the host. For one thread.
class Userfault {
 public:
  // Error (kHost) where the kernel has no userfaultfd, or does not let this process handle faults
  // of the kernel's own, which takes root, CAP_SYS_PTRACE or access to /dev/userfaultfd.
  [[nodiscard]] static Result<Userfault> open();

  // From now on pages of this memory that are not there have to be installed, and a
  // madvise(MADV_DONTNEED) of it waits until its Removal was read.
  [[nodiscard]] Result<> watch(std::span<std::byte> memory);
  // Somebody waits for the page.
  struct Fault {
    std::byte* page;
  };
  // The pages are given back: they must not be filled with what they held before. Whoever gives
  // them back goes on now.
  struct Removal {
    std::span<std::byte> pages;
  };
  using Event = std::variant<Fault, Removal>;
  // The next event, if there is one.
  [[nodiscard]] Result<std::optional<Event>> next();

  // Installs pages that are not there, and wakes who waits for them; how many bytes were installed.
  // Fewer than asked for: a Removal has to be read first. Error where a page is there already.
  [[nodiscard]] Result<std::size_t> copy(std::byte* to, std::span<const std::byte> from);
  // Makes sure that a page is there, zero if it is new, and wakes who waits for it. False: a
  // Removal has to be read first.
  [[nodiscard]] Result<bool> ensure(std::byte* page);

 private:
  explicit Userfault(Fd fd) : fd_(std::move(fd)) {}

  Fd fd_;
};

}  // namespace vmm
