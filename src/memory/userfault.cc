#include "memory/userfault.h"

#include <fcntl.h>
#include <linux/ioctl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

namespace vmm {
namespace {

// Since Linux 6.1; the headers of a distribution may be older.
constexpr unsigned long kNewFd = _IO(0xAA, 0x00);

std::uint64_t address_of(const std::byte* at) {
  return reinterpret_cast<std::uintptr_t>(at);
}

std::byte* pointer_to(std::uint64_t address) {
  return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address));
}

std::uint64_t page_size() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

Result<Fd> new_userfaultfd() {
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;
  Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, kFlags)));
  if (fd.valid()) return fd;
  const Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (device.valid()) fd = Fd(::ioctl(device.get(), kNewFd, kFlags));
  if (!fd.valid()) return fail_errno(ErrorKind::kHost, "this process may not use userfaultfd");
  return fd;
}

}  // namespace

Result<Userfault> Userfault::open() {
  TRY(auto fd, new_userfaultfd());
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_REMOVE;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) {
    return fail_errno(ErrorKind::kHost, "this kernel's userfaultfd does not tell of removed pages");
  }
  return Userfault(std::move(fd));
}

Result<> Userfault::watch(std::span<std::byte> memory) {
  uffdio_register request{};
  request.range = {address_of(memory.data()), memory.size()};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) {
    return fail_errno(ErrorKind::kHost, "userfaultfd does not take {} bytes of memory",
                      memory.size());
  }
  return success();
}

Result<std::optional<Userfault::Event>> Userfault::next() {
  for (;;) {
    uffd_msg message{};
    const ssize_t got = ::read(fd_.get(), &message, sizeof message);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return std::optional<Event>();
    if (got != static_cast<ssize_t>(sizeof message)) {
      return fail_errno(ErrorKind::kHost, "cannot read from userfaultfd");
    }
    if (message.event == UFFD_EVENT_PAGEFAULT) {
      const std::uint64_t address = message.arg.pagefault.address;
      return std::optional<Event>(Fault{pointer_to(address - address % page_size())});
    }
    if (message.event == UFFD_EVENT_REMOVE) {
      const std::uint64_t start = message.arg.remove.start;
      const std::uint64_t end = message.arg.remove.end;
      return std::optional<Event>(Removal{{pointer_to(start), end - start}});
    }
    return fail(ErrorKind::kHost, "userfaultfd tells of event {:#x}, which was not asked for",
                static_cast<unsigned>(message.event));
  }
}

Result<std::size_t> Userfault::copy(std::byte* to, std::span<const std::byte> from) {
  uffdio_copy request{};
  request.dst = address_of(to);
  request.src = address_of(from.data());
  request.len = from.size();
  if (::ioctl(fd_.get(), UFFDIO_COPY, &request) == 0) return from.size();
  if (errno == EAGAIN) return request.copy > 0 ? static_cast<std::size_t>(request.copy) : 0;
  return fail_errno(ErrorKind::kHost, "cannot install {} bytes of memory", from.size());
}

Result<bool> Userfault::ensure(std::byte* page) {
  uffdio_zeropage request{};
  request.range = {address_of(page), page_size()};
  if (::ioctl(fd_.get(), UFFDIO_ZEROPAGE, &request) == 0) return true;
  if (errno == EAGAIN) return false;
  if (errno != EEXIST) return fail_errno(ErrorKind::kHost, "cannot install a page of memory");
  uffdio_range range{address_of(page), page_size()};
  if (::ioctl(fd_.get(), UFFDIO_WAKE, &range) != 0) {
    return fail_errno(ErrorKind::kHost, "cannot wake who waits for memory");
  }
  return true;
}

}  // namespace vmm
