#include "devices/device_state.h"

namespace vmm {

Result<> expect_state_version(ByteReader& reader, std::string_view device, std::uint32_t expected) {
  TRY(auto version, reader.get<std::uint32_t>());
  if (version != expected) {
    return fail(ErrorKind::kFailed, "state of {} has version {}, this program knows version {}",
                device, version, expected);
  }
  return success();
}

Error bad_state_field(std::string_view device, std::string_view field, std::uint64_t value) {
  return make_error(ErrorKind::kFailed, "state of {} has {} = {:#x}, which cannot be", device,
                    field, value);
}

}  // namespace vmm
