#include "fuzz_channels.h"
#include "migration/peer_link.h"

// What is said first on a connection, both ways: bytes that may be a preamble, then bytes that may
// be an answer to one.
namespace vmm::fuzz {
namespace {

using namespace migration;

void run(Input& input) {
  Wire wire;
  const auto preamble = input.bytes(kPreambleBytes);
  InputChannel accepted(wire, {preamble.begin(), preamble.end()}, true);
  if (const auto read = read_preamble(accepted); read) {
    check(std::ranges::equal(encode(read.value()), preamble), "a preamble is encoded as it came");
  } else {
    check_error(read.error());
  }

  const auto answer = input.rest();
  InputChannel connected(wire, {answer.begin(), answer.end()}, true);
  if (const auto introduced = introduce(connected, {}); !introduced) {
    check_error(introduced.error());
  }
  if (answer.size() < kPreambleAnswerHeadBytes) return;
  const auto head = decode_answer_head(answer.first<kPreambleAnswerHeadBytes>());
  if (!head) return check_error(head.error());
  check(head.value().text_bytes <= kMaxText, "a text has its cap");
  const auto text = answer.subspan(kPreambleAnswerHeadBytes);
  const auto decoded = decode_answer(head.value(), text);
  if (!decoded) return check_error(decoded.error());
  check(std::ranges::equal(encode(decoded.value()), answer), "an answer is encoded as it came");
}

const Target kTarget{"preamble", run};

}  // namespace
}  // namespace vmm::fuzz
