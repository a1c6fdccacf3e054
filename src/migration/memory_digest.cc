#include "migration/memory_digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "migration/zero_page.h"

namespace vmm::migration {
namespace {

// Bytes between two looks at control.stop.
constexpr std::size_t kStep = std::size_t{8} << 20;

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
      for_each_dirty_range(backed, pages, [&](PageRange range) {
        for (std::uint64_t page = range.first; page < range.first + range.count; ++page) {
          const std::size_t offset = page * kPageSize;
          const auto contents = bytes.subspan(offset).first<kPageSize>();
          if (is_zero_page(contents)) continue;
          const std::uint64_t ipa = region.ipa + at + offset;
          sha.add(std::as_bytes(std::span(&ipa, 1)));
          sha.add(contents);
        }
      });
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
