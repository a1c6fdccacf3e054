#include "migration/memory_digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace vmm::migration {
namespace {

// Bytes between two looks at control.stop.
constexpr std::size_t kStep = std::size_t{8} << 20;
// What holes read as; small enough to stay in the cache.
constexpr std::array<std::byte, std::size_t{64} << 10> kZeros{};

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { ::EVP_MD_CTX_free(context); }
};

class Sha256 {
 public:
  Sha256() : context_(::EVP_MD_CTX_new()) {
    good_ =
        context_ != nullptr && ::EVP_DigestInit_ex(context_.get(), ::EVP_sha256(), nullptr) == 1;
  }
  void add(std::span<const std::byte> bytes) {
    good_ = good_ && ::EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1;
  }
  void add_zeros(std::size_t size) {
    while (size > 0) {
      const std::size_t part = std::min(size, kZeros.size());
      add(std::span(kZeros).first(part));
      size -= part;
    }
  }
  [[nodiscard]] Result<MemoryDigest> finish() {
    MemoryDigest digest;
    unsigned size = 0;
    good_ =
        good_ && ::EVP_DigestFinal_ex(context_.get(),
                                      reinterpret_cast<unsigned char*>(digest.data()), &size) == 1;
    if (!good_ || size != digest.size()) return fail(ErrorKind::kHost, "OpenSSL has no SHA-256");
    return digest;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, FreeContext> context_;
  bool good_ = false;
};

}  // namespace

Result<MemoryDigest> memory_digest(const GuestMemory& memory, const Pagemap& pagemap,
                                   DigestControl& control) {
  Sha256 sha;
  std::vector<std::uint64_t> backed;
  for (const auto& region : memory.regions()) {
    for (std::size_t at = 0; at < region.bytes.size(); at += kStep) {
      if (control.stop.load(std::memory_order_relaxed)) {
        return fail(ErrorKind::kInterrupted, "the digest of guest memory was interrupted");
      }
      const auto bytes = region.bytes.subspan(at, std::min(kStep, region.bytes.size() - at));
      const std::uint64_t pages = bytes.size() / kPageSize;
      backed.resize(dirty_words(pages));
      TRY(pagemap.backed(bytes, backed));
      std::uint64_t done = 0;
      for_each_dirty_range(backed, pages, [&](PageRange range) {
        sha.add_zeros((range.first - done) * kPageSize);
        sha.add(bytes.subspan(range.first * kPageSize, range.count * kPageSize));
        done = range.first + range.count;
      });
      sha.add_zeros((pages - done) * kPageSize);
      control.done_bytes.fetch_add(bytes.size(), std::memory_order_relaxed);
    }
  }
  return sha.finish();
}

std::string to_string(const MemoryDigest& digest) {
  std::string text;
  for (const auto byte : digest) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

}  // namespace vmm::migration
