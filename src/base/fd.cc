#include "base/fd.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>

namespace vmm {

Fd::~Fd() {
  // A failed close() cannot be retried (the descriptor is gone either way), and data whose loss
  // would matter has been fsync-ed before.
  if (fd_ >= 0) static_cast<void>(::close(fd_));
}

Result<Fd> open_file(const std::string& path, int flags, unsigned mode, ErrorKind kind) {
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.valid()) return fail_errno(kind, "cannot open {}", path);
  return fd;
}

Result<> read_exact(const Fd& fd, std::span<std::byte> data, const std::string& name) {
  std::size_t done = 0;
  while (done < data.size()) {
    const ssize_t n = ::read(fd.get(), data.data() + done, data.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(ErrorKind::kFailed, "cannot read {}", name);
    if (n == 0) {
      return fail(ErrorKind::kFailed, "{} is truncated: {} bytes of {} are there", name, done,
                  data.size());
    }
    done += static_cast<std::size_t>(n);
  }
  return success();
}

Result<> write_all(const Fd& fd, std::span<const std::byte> data, const std::string& name) {
  std::size_t done = 0;
  while (done < data.size()) {
    const ssize_t n = ::write(fd.get(), data.data() + done, data.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(ErrorKind::kFailed, "cannot write {}", name);
    done += static_cast<std::size_t>(n);
  }
  return success();
}

Result<std::string> read_file(const std::string& path, std::size_t max_bytes) {
  TRY(auto fd, open_file(path, O_RDONLY));
  std::string text;
  std::string buffer(64 * 1024, '\0');
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(ErrorKind::kFailed, "cannot read {}", path);
    if (n == 0) return text;
    text.append(buffer, 0, static_cast<std::size_t>(n));
    if (text.size() > max_bytes) {
      return fail(ErrorKind::kFailed, "{} is larger than the {} bytes allowed", path, max_bytes);
    }
  }
}

Result<Fd> make_eventfd() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return fail_errno(ErrorKind::kHost, "cannot create an eventfd");
  return fd;
}

void signal_eventfd(const Fd& fd) {
  const std::uint64_t one = 1;
  const ssize_t n = ::write(fd.get(), &one, sizeof one);
  // EAGAIN means the counter is at its maximum: the reader is as good as told.
  if (n != sizeof one && errno != EAGAIN) std::abort();
}

}  // namespace vmm
