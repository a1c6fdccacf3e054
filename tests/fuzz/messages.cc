#include "migration/messages.h"

#include "fuzz_channels.h"
#include "migration/control_link.h"

// Frames of the control connection: the bytes as a link reads them, and as one message of a type.
namespace vmm::fuzz {
namespace {

using namespace migration;

void check_message(std::uint32_t type, std::span<const std::byte> payload) {
  const auto message = decode_payload(type, payload);
  if (!message) return check_error(message.error());
  check(static_cast<std::uint32_t>(type_of(message.value())) == type, "a message has its type");
  const auto encoded = encode_payload(message.value());
  check(encoded.has_value() && std::ranges::equal(encoded.value(), payload),
        "a message is encoded as it came");
}

void run(Input& input) {
  const auto bytes = input.rest();
  if (bytes.empty()) return;
  check_message(std::to_integer<std::uint32_t>(bytes[0]), bytes.subspan(1));

  Wire wire;
  ControlLink link(
      std::make_unique<InputChannel>(wire, std::vector(bytes.begin() + 1, bytes.end()), true), {});
  for (;;) {
    const auto frame = link.receive(std::chrono::seconds(10));
    if (!frame) return check_error(frame.error());
    check(frame.value().has_value(), "a link whose peer has closed fails");
    const auto most = max_payload(frame.value()->type);
    check(most && frame.value()->payload.size() <= most.value(), "a payload has its cap");
    check_message(frame.value()->type, frame.value()->payload);
  }
}

const Target kTarget{"messages", run};

}  // namespace
}  // namespace vmm::fuzz
