// Who is let in, who is not, and what both sides say about that.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <thread>

#include "migration/messages.h"
#include "migration/peer_link.h"
#include "migration/tls_channel.h"
#include "tls_support.h"

namespace vmm::migration {
namespace {

using ::testing::HasSubstr;

constexpr std::time_t kDay = 24 * 3600;

// What both ends of an attempt to begin a connection came to.
struct Attempt {
  Result<> source = success();
  Result<Preamble> destination = Preamble{};
};

// As the two sides of a migration begin it: the destination answers who has introduced itself.
Attempt introduce_to(std::unique_ptr<Channel> ours, std::unique_ptr<Channel> theirs) {
  Attempt attempt;
  std::jthread other([&] {
    attempt.destination = read_preamble(*theirs);
    if (attempt.destination) {
      EXPECT_TRUE(answer_preamble(*theirs, {}));
    } else if (attempt.destination.error().kind() == ErrorKind::kFailed) {
      static_cast<void>(answer_preamble(*theirs, {1, attempt.destination.error().message()}));
    }
    theirs.reset();
  });
  attempt.source = introduce(*ours, {.id = MigrationId::random().value()});
  ours.reset();
  other.join();
  return attempt;
}

// A peer that does as it pleases: OpenSSL alone, with the files of a folder or without any.
class RawPeer {
 public:
  explicit RawPeer(const std::filesystem::path& folder = {}) : context_(SSL_CTX_new(TLS_method())) {
    if (folder.empty()) return;
    EXPECT_EQ(SSL_CTX_use_certificate_chain_file(context_, (folder / kCertificateFile).c_str()), 1);
    EXPECT_EQ(SSL_CTX_use_PrivateKey_file(context_, (folder / kKeyFile).c_str(), SSL_FILETYPE_PEM),
              1);
  }
  RawPeer(const RawPeer&) = delete;
  RawPeer& operator=(const RawPeer&) = delete;
  ~RawPeer() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }

  [[nodiscard]] SSL_CTX* context() { return context_; }
  // Trusts the CA of a folder, as of another time.
  void trust(const std::filesystem::path& folder, std::time_t when) {
    EXPECT_EQ(SSL_CTX_load_verify_file(context_, (folder / kCaFile).c_str()), 1);
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    X509_VERIFY_PARAM_set_time(SSL_CTX_get0_param(context_), when);
  }
  void offer(const std::string& protocol) {
    const auto list = static_cast<char>(protocol.size()) + protocol;
    SSL_CTX_set_alpn_protos(context_, reinterpret_cast<const unsigned char*>(list.data()),
                            static_cast<unsigned>(list.size()));
  }
  void agree() {
    SSL_CTX_set_alpn_select_cb(
        context_,
        [](SSL*, const unsigned char** chosen, unsigned char* size, const unsigned char* offered,
           unsigned, void*) {
          *chosen = offered + 1;
          *size = offered[0];
          return SSL_TLSEXT_ERR_OK;
        },
        nullptr);
  }
  // Connects and waits for something to read; what came.
  std::string connect(const TcpAddress& address) {
    fd_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(address.port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    ssl_ = SSL_new(context_);
    SSL_set_fd(ssl_, fd_.get());
    std::string got(100, '\0');
    const int count =
        SSL_connect(ssl_) == 1 ? SSL_read(ssl_, got.data(), static_cast<int>(got.size())) : 0;
    got.resize(static_cast<std::size_t>(std::max(count, 0)));
    return got;
  }

 private:
  SSL_CTX* context_;
  SSL* ssl_ = nullptr;
  Fd fd_;
};

class TlsPeersTest : public ::testing::Test {
 protected:
  // The source is `who`, in its folder, and looks for `wanted`; the destination, `there`, lets
  // `allowed` in.
  Attempt attempt(const std::string& who, const PeerId& wanted, std::vector<PeerId> allowed) {
    auto [ours, theirs] = socket_pair();
    return introduce_to(
        TlsChannel::create(std::move(ours), hosts_.identity(who), TlsSide::kSource, {wanted})
            .value(),
        TlsChannel::create(std::move(theirs), hosts_.identity("there"), TlsSide::kDestination,
                           std::move(allowed))
            .value());
  }
  // What the destination says of a raw peer, which gets nothing from it.
  std::string refusal(RawPeer& peer) {
    auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
    TlsAcceptor acceptor(listener, hosts_.identity("there"), {peer_id("here")});
    std::string got = "nothing";
    std::jthread other([&] { got = peer.connect(listener.address()); });
    auto channel = acceptor.accept(kLong).value();
    const auto read = read_preamble(*channel);
    channel.reset();
    other.join();
    EXPECT_EQ(got, "");
    if (read) return "";
    EXPECT_EQ(read.error().kind(), ErrorKind::kMigration);
    return read.error().message();
  }
  // What the source says of a raw peer as the destination.
  std::string complaint(RawPeer& peer, const std::string& wanted = "there") {
    auto [ours, theirs] = socket_pair();
    auto channel = TlsChannel::create(std::move(ours), hosts_.identity("here"), TlsSide::kSource,
                                      {peer_id(wanted)})
                       .value();
    std::jthread other([&peer, socket = std::move(theirs)] { raw_server(peer, *socket); });
    const auto introduced = introduce(*channel, {.id = MigrationId::random().value()});
    channel.reset();
    other.join();
    if (introduced) return "";
    EXPECT_EQ(introduced.error().kind(), ErrorKind::kMigration);
    return introduced.error().message();
  }

  TlsHosts hosts_;

 private:
  // Serves TLS over a socket by memory buffers, until it fails or has read something.
  static void raw_server(RawPeer& peer, TcpSocket& socket) {
    const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(peer.context()), &SSL_free);
    BIO* in = BIO_new(BIO_s_mem());
    BIO* out = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl.get(), in, out);
    SSL_set_accept_state(ssl.get());
    for (;;) {
      char byte = 0;
      const int result = SSL_read(ssl.get(), &byte, 1);
      char* pending = nullptr;
      const long size = BIO_get_mem_data(out, &pending);
      if (size > 0) {
        const iovec part{pending, static_cast<std::size_t>(size)};
        if (!socket.send_some(std::span(&part, 1))) return;
        static_cast<void>(BIO_reset(out));
      }
      if (SSL_get_error(ssl.get(), result) != SSL_ERROR_WANT_READ) return;
      std::array<char, 4096> bytes{};
      const iovec part{bytes.data(), bytes.size()};
      const auto got = socket.receive_some(std::span(&part, 1));
      if (!got) return;
      BIO_write(in, bytes.data(), static_cast<int>(got.value()));
    }
  }
};

TEST_F(TlsPeersTest, HostsThatKnowEachOtherTalk) {
  for (const auto& id : {std::string("here"), hosts_.identity("here").info().fingerprint}) {
    const auto result = attempt("here", peer_id("there"), {peer_id("nobody"), peer_id(id)});
    EXPECT_TRUE(result.source) << message_of(result.source);
    EXPECT_TRUE(result.destination) << message_of(result.destination);
  }
  const auto fingerprint = hosts_.identity("there").info().fingerprint;
  EXPECT_TRUE(attempt("here", peer_id(fingerprint), {peer_id("here")}).source);
}

TEST_F(TlsPeersTest, AHostThatIsNotAllowedGetsNothing) {
  hosts_.add("third");
  const auto result = attempt("third", peer_id("there"), {peer_id("here")});
  EXPECT_THAT(message_of(result.destination), HasSubstr("third (SHA-256 "));
  EXPECT_THAT(message_of(result.destination), HasSubstr("is not among those of --allow-peer"));
  expect_error(result.source, ErrorKind::kMigration,
               "does not take the certificate of third: it is not among those of --allow-peer");
}

TEST_F(TlsPeersTest, ADestinationOfAnotherNameGetsNothing) {
  const auto result = attempt("here", peer_id("elsewhere"), {peer_id("here")});
  expect_error(result.source, ErrorKind::kMigration, " is there (SHA-256 ");
  EXPECT_THAT(message_of(result.source), HasSubstr("and not elsewhere"));
  EXPECT_THAT(message_of(result.destination),
              HasSubstr("does not take the certificate of there: it was to be of another host"));
}

TEST_F(TlsPeersTest, OfAnotherCaNobodyIsKnown) {
  const TlsHosts others;
  auto [ours, theirs] = socket_pair();
  const auto result = introduce_to(TlsChannel::create(std::move(ours), others.identity("here"),
                                                      TlsSide::kSource, {peer_id("there")})
                                       .value(),
                                   TlsChannel::create(std::move(theirs), hosts_.identity("there"),
                                                      TlsSide::kDestination, {peer_id("here")})
                                       .value());
  expect_error(result.source, ErrorKind::kMigration, "is of a CA that is not in ca.pem");
  EXPECT_THAT(message_of(result.destination), HasSubstr("it is of another CA"));
  RawPeer stranger(others.authority());
  EXPECT_THAT(refusal(stranger), HasSubstr("is of a CA that is not in ca.pem"));
}

TEST_F(TlsPeersTest, ARevokedCertificateIsRefusedByName) {
  ASSERT_TRUE(revoke(hosts_.authority(), peer_id("there"), std::time(nullptr)));
  // It does not know yet.
  const auto result = attempt("here", peer_id("there"), {peer_id("here")});
  expect_error(result.source, ErrorKind::kMigration, "the certificate of there (SHA-256 ");
  EXPECT_THAT(message_of(result.source), HasSubstr("has been revoked"));
  EXPECT_THAT(message_of(result.destination),
              HasSubstr("does not take the certificate of there: it has been revoked"));
}

TEST_F(TlsPeersTest, CertificatesOfOtherTimesAreRefused) {
  const auto now = std::time(nullptr);
  RawPeer past(hosts_.add("past", {now - 2 * kDay, now - kDay}));
  EXPECT_THAT(refusal(past), HasSubstr("has expired"));
  RawPeer future(hosts_.add("future", {now + kDay, now + 2 * kDay}));
  EXPECT_THAT(refusal(future), HasSubstr("is not valid yet"));
  EXPECT_THAT(complaint(past, "past"), HasSubstr("has expired"));
  EXPECT_THAT(complaint(future, "future"), HasSubstr("is not valid yet"));
}

TEST_F(TlsPeersTest, WhatTheClockOfTheOtherSideSaysIsPassedOn) {
  const auto now = std::time(nullptr);
  RawPeer ahead(hosts_.of("there"));
  ahead.agree();
  ahead.trust(hosts_.authority(), now + 800 * kDay);
  EXPECT_THAT(complaint(ahead), HasSubstr("of here: it has expired, by the clock there"));
  RawPeer behind(hosts_.of("there"));
  behind.agree();
  behind.trust(hosts_.authority(), now - kDay);
  EXPECT_THAT(complaint(behind), HasSubstr("not valid yet, by the clock there"));
}

TEST_F(TlsPeersTest, APeerWithoutACertificateIsRefused) {
  RawPeer nobody;
  nobody.offer("vmm-migration");
  EXPECT_THAT(refusal(nobody), HasSubstr("has no certificate"));
}

TEST_F(TlsPeersTest, TlsOfAnotherKindIsRefused) {
  RawPeer without(hosts_.authority());
  EXPECT_THAT(refusal(without), HasSubstr("speaks TLS, but not for migrations"));
  RawPeer web(hosts_.authority());
  web.offer("h2");
  EXPECT_THAT(refusal(web), HasSubstr("no application protocol"));
  RawPeer server(hosts_.of("there"));
  EXPECT_THAT(complaint(server), HasSubstr("speaks TLS, but not for migrations"));
  RawPeer old(hosts_.authority());
  old.offer("vmm-migration");
  SSL_CTX_set_max_proto_version(old.context(), TLS1_2_VERSION);
  EXPECT_THAT(refusal(old), HasSubstr("unsupported protocol"));
}

TEST_F(TlsPeersTest, APlaintextSourceIsToldToSpeakTls) {
  auto [ours, theirs] = socket_pair();
  const auto result = introduce_to(std::make_unique<TcpChannel>(std::move(ours)),
                                   TlsChannel::create(std::move(theirs), hosts_.identity("there"),
                                                      TlsSide::kDestination, {peer_id("here")})
                                       .value());
  EXPECT_THAT(message_of(result.destination), HasSubstr("the source speaks plaintext; "));
  expect_error(result.source, ErrorKind::kMigration,
               "refuses: it wants TLS: give --plaintext on both sides or neither");
}

TEST_F(TlsPeersTest, APlaintextDestinationIsToldByItsPreamble) {
  auto [ours, theirs] = socket_pair();
  const auto result = introduce_to(TlsChannel::create(std::move(ours), hosts_.identity("here"),
                                                      TlsSide::kSource, {peer_id("there")})
                                       .value(),
                                   std::make_unique<TcpChannel>(std::move(theirs)));
  expect_error(result.destination, ErrorKind::kFailed, "the peer speaks TLS, and this side");
  expect_error(result.source, ErrorKind::kMigration, "speaks plaintext; vmm receive there");
}

TEST_F(TlsPeersTest, SomethingElseThatAnswersIsNamed) {
  for (const auto side : {TlsSide::kSource, TlsSide::kDestination}) {
    auto [ours, theirs] = socket_pair();
    auto channel =
        TlsChannel::create(std::move(ours), hosts_.identity("here"), side, {peer_id("there")})
            .value();
    std::string text = "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n";
    const iovec part{text.data(), text.size()};
    ASSERT_TRUE(theirs->send_some(std::span(&part, 1)));
    std::byte byte{};
    expect_error(read_bytes(*channel, {&byte, 1}), ErrorKind::kMigration, " does not speak TLS");
  }
}

TEST_F(TlsPeersTest, AClientThatStallsHoldsUpNobody) {
  auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
  TlsAcceptor acceptor(listener, hosts_.identity("there"), {peer_id("here")});
  TlsConnector connector(listener.address(), hosts_.identity("here"), peer_id("there"));
  auto silent = tcp_connect(listener.address(), kLong).value();
  auto first = acceptor.accept(kLong).value();
  // Neither side has to wait for the silent one, nor for each other before it says something.
  auto ours = connector.connect(kLong).value();
  auto theirs = acceptor.accept(kLong).value();
  const auto result = introduce_to(std::move(ours), std::move(theirs));
  EXPECT_TRUE(result.source) << message_of(result.source);
  EXPECT_TRUE(result.destination);
}

}  // namespace
}  // namespace vmm::migration
