#include "vmm/outgoing_migration.h"

#include <boost/asio/post.hpp>
#include <boost/json/object.hpp>

#include "base/log.h"
#include "migration/tcp_channel.h"
#include "vmm/loop_call.h"
#include "vmm/migration_channels.h"
#include "vmm/outgoing_manifest.h"
#include "vmm/rpc_params.h"

namespace vmm {
namespace json = boost::json;

namespace {

using migration::SourceOptions;

// How long the process of a guest that has gone waits for somebody to ask how it went.
constexpr std::chrono::seconds kLinger{3};
constexpr std::chrono::milliseconds kShortestPeerTimeout{100};

migration::LogChoice log_choice(std::optional<DirtyLogMode> mode) {
  if (!mode) return migration::LogChoice::kAuto;
  return *mode == DirtyLogMode::kHardware ? migration::LogChoice::kHardware
                                          : migration::LogChoice::kWriteProtect;
}

Result<> parse_limits(const json::object& params, migration::PolicyLimits& limits) {
  TRY(const auto downtime, optional_ms(params, "downtime_limit_ms"));
  if (downtime) limits.downtime = *downtime;
  TRY(const auto rounds, optional_number(params, "max_rounds"));
  if (rounds) {
    if (*rounds == 0 || *rounds > UINT32_MAX) {
      return fail(ErrorKind::kUsage, "max_rounds is {}, and not 1 or more", *rounds);
    }
    limits.max_rounds = static_cast<std::uint32_t>(*rounds);
  }
  TRY(const auto throttle, optional_number(params, "max_throttle"));
  if (throttle.value_or(0) > migration::kMostThrottle) {
    return fail(ErrorKind::kUsage, "max_throttle is {} %: give 0 to {}", *throttle,
                migration::kMostThrottle);
  }
  limits.max_throttle = static_cast<unsigned>(throttle.value_or(0));
  TRY(const auto total, optional_ms(params, "timeout_ms"));
  if (total) limits.total_time = *total;
  TRY(const auto action, optional_text(params, "on_timeout"));
  if (!action || *action == "cancel") {
    limits.on_timeout = migration::OnTimeout::kCancel;
  } else if (*action == "stop-and-copy") {
    limits.on_timeout = migration::OnTimeout::kStopAndCopy;
  } else {
    return fail(ErrorKind::kUsage, "on_timeout is \"{}\", and not cancel or stop-and-copy",
                *action);
  }
  return success();
}

Result<SourceOptions> parse_options(const json::object& params) {
  SourceOptions options;
  TRY(parse_limits(params, options.limits));
  TRY(const auto mode, optional_log_mode(params));
  options.limits.log = log_choice(mode);
  TRY(options.require_hw, flag(params, "require_hw"));
  if (options.require_hw && options.limits.log == migration::LogChoice::kWriteProtect) {
    return fail(ErrorKind::kUsage,
                "require_hw asks for hardware dirty logging, and dirty_log for write-protect");
  }
  TRY(options.verify, flag(params, "verify"));
  TRY(const auto channels, optional_number(params, "channels"));
  if (channels && (*channels == 0 || *channels > migration::kMaxDataChannels)) {
    return fail(ErrorKind::kUsage, "{} channels: give 1 to {}", *channels,
                migration::kMaxDataChannels);
  }
  if (channels) options.channels = static_cast<unsigned>(*channels);
  TRY(const auto bandwidth, optional_number(params, "bandwidth"));
  options.bandwidth = bandwidth.value_or(0);
  TRY(const auto timeout, optional_ms(params, "peer_timeout_ms"));
  options.peer_timeout = timeout.value_or(options.peer_timeout);
  if (options.peer_timeout < kShortestPeerTimeout) {
    return fail(ErrorKind::kUsage, "a peer timeout of {} ms: give {} ms or more",
                options.peer_timeout.count(), kShortestPeerTimeout.count());
  }
  TRY(options.control_run, optional_number(params, "control_run"));
  return options;
}

// The guest as the migration's thread sees it: what it asks for happens on the event loop.
class LoopGuest final : public migration::SourceGuest {
 public:
  LoopGuest(boost::asio::io_context& loop, Guest& guest, GuestResources& resources,
            MovableMachine& machine)
      : loop_(loop), guest_(guest), resources_(resources), machine_(machine) {}

  GuestMemory& memory() override { return machine_.memory(); }
  DirtyLog& dirty_log() override { return machine_.dirty_log(); }
  Result<> pause() override {
    return call_on(loop_, [this] { return guest_.suspend(); });
  }
  Result<> resume() override {
    return call_on(loop_, [this]() -> Result<> {
      guest_.unsuspend();
      return success();
    });
  }
  void throttle(unsigned percent) override {
    boost::asio::post(loop_, [this, percent] { machine_.throttle(percent); });
  }
  Result<migration::SavedMachine> save() override {
    return call_on(loop_, [this]() -> Result<migration::SavedMachine> {
      const auto counters_at = std::chrono::steady_clock::now();
      TRY(auto state, machine_.save());
      return migration::SavedMachine{std::move(state), counters_at};
    });
  }
  Result<> release_disks() override {
    return call_on(loop_, [this] { return resources_.release_disks(); });
  }
  Result<> reacquire_disks() override {
    return call_on(loop_, [this] { return resources_.reacquire_disks(); });
  }
  void mark_in_doubt() override {
    boost::asio::post(loop_, [this] { guest_.set_in_doubt(); });
  }

 private:
  boost::asio::io_context& loop_;
  Guest& guest_;
  GuestResources& resources_;
  MovableMachine& machine_;
};

}  // namespace

// A migration from start() to finished().
struct OutgoingMigration::Session {
  Session(LoopGuest guest_port, std::unique_ptr<migration::Connector> connections,
          migration::DecisionRecords where, migration::Manifest manifest, const std::string& to,
          const SourceOptions& options)
      : guest(guest_port),
        connector(std::move(connections)),
        records(std::move(where)),
        source(guest, *connector, records, std::move(manifest), to, options) {}
  ~Session() {
    source.abandon();
    if (thread.joinable()) thread.join();
  }

  LoopGuest guest;
  std::unique_ptr<migration::Connector> connector;
  migration::DecisionRecords records;
  migration::Source source;
  std::thread thread;
};

OutgoingMigration::OutgoingMigration(boost::asio::io_context& loop, const GuestConfig& config,
                                     GuestResources& resources, Guest& guest)
    : loop_(loop), config_(config), resources_(resources), guest_(guest), departure_(loop) {}

OutgoingMigration::~OutgoingMigration() = default;

void OutgoingMigration::add_methods(ControlServer& server) {
  server.add_method("migration.start",
                    [this](const json::object& params) { return start(params); });
  server.add_method("migration.progress", [this](const json::object&) { return progress(); });
  server.add_method("migration.cancel", [this](const json::object&) { return cancel(); });
  server.add_method("migration.resolve",
                    [this](const json::object& params) { return resolve(params); });
}

Result<migration::Manifest> OutgoingMigration::manifest(const MovableMachine& machine,
                                                        const SourceOptions& options) {
  TRY(auto manifest, outgoing_manifest(config_, resources_));
  TRY(manifest.id, migration::MigrationId::random());
  manifest.cpu_identity = machine.identity();
  manifest.channels = static_cast<std::uint16_t>(options.channels);
  manifest.paused = guest_.paused();
  return manifest;
}

Result<json::value> OutgoingMigration::start(const json::object& params) {
  if (session_) {
    return fail(ErrorKind::kFailed, "{} is already migrating to {}; vmm cancel ends that",
                config_.name, destination_);
  }
  TRY(const auto to, optional_text(params, "to"));
  if (!to) return fail(ErrorKind::kUsage, "to is missing: where to migrate to");
  TRY(const auto options, parse_options(params));
  TRY(const auto address, migration::TcpAddress::parse(*to));
  ChannelOptions channels;
  TRY(channels.plaintext, flag(params, "plaintext"));
  TRY(channels.tls_dir, optional_text(params, "tls_dir"));
  TRY(const auto peer_name, optional_text(params, "peer_name"));
  TRY(auto connector, make_connector(address, channels, peer_name));
  TRY(auto records, migration::DecisionRecords::open_default());
  if (before_start_) before_start_();
  TRY(auto* machine, guest_.begin_task("a migration", [this] {
    if (session_) static_cast<void>(session_->source.cancel());
  }));
  auto described = manifest(*machine, options);
  if (!described) {
    guest_.end_task();
    return fail(std::move(described).error());
  }
  destination_ = *to;
  last_.reset();
  const auto id = described.value().id.to_string();
  session_ = std::make_unique<Session>(LoopGuest(loop_, guest_, resources_, *machine),
                                       std::move(connector), std::move(records),
                                       std::move(described).value(), destination_, options);
  session_->thread = std::thread([this] {
    auto result = session_->source.run();
    boost::asio::post(
        loop_, [this, result = std::move(result)]() mutable { finished(std::move(result)); });
  });
  log(LogLevel::kInfo, "migration {} to {} begins", id, destination_);
  return json::value{{"migration_id", id}};
}

void OutgoingMigration::finished(Result<migration::MigrationReport> result) {
  const bool gone = result && result.value().result == migration::kMigrated;
  if (gone) {
    log(LogLevel::kInfo, "{} has moved to {}", config_.name, destination_);
  } else if (!result) {
    log(LogLevel::kWarning, "migration to {}: {}", destination_, result.error().message());
  }
  last_ = std::move(result);
  session_->thread.join();
  session_.reset();
  guest_.end_task();
  if (gone) depart_soon(kLinger);
}

void OutgoingMigration::depart_soon(std::chrono::milliseconds delay) {
  departure_.expires_after(delay);
  departure_.async_wait([this](const boost::system::error_code& error) {
    if (!error) guest_.depart();
  });
}

json::object OutgoingMigration::progress_json() const {
  const auto progress = session_->source.progress();
  auto object = to_json(progress);
  object["migration_id"] = session_->source.id().to_string();
  object["to"] = destination_;
  object["line"] = to_text(progress);
  return object;
}

Result<json::value> OutgoingMigration::progress() {
  if (session_) return json::value{{"progress", progress_json()}};
  if (!last_) return fail(ErrorKind::kFailed, "{} has not been migrating", config_.name);
  if (!*last_) return fail(last_->error());
  // Long enough for the reply to go out before the process ends.
  constexpr std::chrono::milliseconds kReplyTime{50};
  if (last_->value().result == migration::kMigrated) depart_soon(kReplyTime);
  return json::value{{"report", to_json(last_->value())}, {"summary", to_text(last_->value())}};
}

Result<json::value> OutgoingMigration::cancel() {
  if (!session_) return fail(ErrorKind::kFailed, "{} is not migrating", config_.name);
  TRY(session_->source.cancel());
  return json::value(json::object());
}

Result<json::value> OutgoingMigration::resolve(const json::object& params) {
  TRY(const auto id, optional_text(params, "id"));
  TRY(const auto resume, flag(params, "resume"));
  if (!session_ || !id || *id != session_->source.id().to_string()) {
    return fail(ErrorKind::kNoSuchGuest, "{} has no migration {}", config_.name,
                id.value_or("without an id"));
  }
  if (session_->source.state() != migration::SourceState::kInDoubt) {
    return fail(ErrorKind::kFailed, "the migration is not in doubt: {}",
                to_string(session_->source.state()));
  }
  // Somebody who runs the guest elsewhere holds its disks, where locks reach that far.
  if (resume) {
    TRY(resources_.reacquire_disks());
  }
  TRY(session_->source.resolve(resume));
  return json::value(json::object());
}

}  // namespace vmm
