#include "vmm/outgoing_snapshot.h"

#include <fmt/format.h>

#include <boost/asio/post.hpp>

#include <filesystem>
#include <string>
#include <thread>
#include <utility>

#include "base/log.h"
#include "migration/snapshot_writer.h"
#include "vmm/loop_call.h"
#include "vmm/outgoing_manifest.h"
#include "vmm/rpc_params.h"
#include "vmm/snapshot_disks.h"

namespace vmm {
namespace json = boost::json;

namespace {

using Clock = std::chrono::steady_clock;

// How long the process of a guest that has ended waits for somebody to ask how that went, and then
// for its reply to go out.
constexpr std::chrono::milliseconds kLinger{3'000};
constexpr std::chrono::milliseconds kReplyTime{50};

double in_ms(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

}  // namespace

// A snapshot from start() to finished(), on a thread of its own that calls the loop for what only
// the loop may do.
class OutgoingSnapshot::Session {
 public:
  Session(OutgoingSnapshot& owner, MovableMachine& machine, migration::Manifest manifest,
          std::unique_ptr<migration::SnapshotFile> file, Pagemap pagemap)
      : owner_(owner),
        machine_(machine),
        file_(std::move(file)),
        pagemap_(std::move(pagemap)),
        stops_(owner.stops_) {
    contents_.manifest = std::move(manifest);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() {
    cancel();
    if (thread_.joinable()) thread_.join();
  }

  void start() {
    thread_ = std::thread([this] {
      auto result = run();
      file_.reset();  // the temporary file is gone when its failure is known
      boost::asio::post(owner_.loop_, [owner = &owner_, result = std::move(result)]() mutable {
        owner->finished(std::move(result));
      });
    });
  }
  void cancel() { progress_.stop = true; }
  [[nodiscard]] std::uint64_t done_bytes() const { return progress_.done_bytes; }

 private:
  [[nodiscard]] Result<Report> run() {
    auto result = save();
    if (paused_since_ && !(result && stops_)) {
      // The loop that has ended has no guest any more that could go on.
      static_cast<void>(resume());
    }
    if (!result) return fail(std::move(result).error());
    return report_;
  }

  // The guest stands still until all is written; one that is to end here, until it is durable.
  [[nodiscard]] Result<> save() {
    TRY(call_on(owner_.loop_, [this] { return pause(); }));
    TRY(report_.bytes,
        migration::write_snapshot(*file_, contents_, machine_.memory(), pagemap_, progress_));
    if (!stops_) {
      TRY(resume());
    }
    if (progress_.stop) return fail(ErrorKind::kInterrupted, "the snapshot was cancelled");
    return file_->commit();
  }

  // On the loop.
  [[nodiscard]] Result<> pause() {
    const auto now = Clock::now();
    TRY(owner_.guest_.suspend());
    paused_since_ = now;
    TRY(contents_.state, machine_.save());
    TRY(contents_.disks, save_disks(owner_.config_, owner_.resources_));
    return success();
  }
  [[nodiscard]] Result<> resume() {
    return call_on(owner_.loop_, [this]() -> Result<> {
      owner_.guest_.unsuspend();
      report_.paused = Clock::now() - *paused_since_;
      paused_since_.reset();
      return success();
    });
  }

  OutgoingSnapshot& owner_;
  MovableMachine& machine_;
  migration::SnapshotContents contents_;
  std::unique_ptr<migration::SnapshotFile> file_;
  const Pagemap pagemap_;
  const bool stops_;
  migration::SnapshotProgress progress_;
  std::optional<Clock::time_point> paused_since_;
  Report report_;
  std::thread thread_;
};

OutgoingSnapshot::OutgoingSnapshot(boost::asio::io_context& loop, const GuestConfig& config,
                                   GuestResources& resources, Guest& guest)
    : loop_(loop),
      config_(config),
      resources_(resources),
      guest_(guest),
      client_(loop),
      departure_(loop) {}

OutgoingSnapshot::~OutgoingSnapshot() = default;

void OutgoingSnapshot::add_methods(ControlServer& server) {
  server.add_method("snapshot.start", [this](const json::object& params) { return start(params); });
  server.add_method("snapshot.progress", [this](const json::object&) { return progress(); });
  server.add_method("snapshot.cancel", [this](const json::object&) { return cancel(); });
}

Result<> OutgoingSnapshot::check_possible(bool stop) const {
  if (config_.cpu.pmu) {
    return fail(ErrorKind::kUsage,
                "{} cannot be saved: the state of CPU feature pmu is not known; boot it without",
                config_.name);
  }
  for (const auto& disk : config_.disks) {
    if (disk.readonly || stop) continue;
    return fail(ErrorKind::kUsage,
                "{} writes to disk {}, which would not fit the snapshot any more once it goes on: "
                "give --stop",
                config_.name, disk.id);
  }
  return success();
}

Result<json::value> OutgoingSnapshot::start(const json::object& params) {
  TRY(const auto to, optional_text(params, "to"));
  if (!to || !std::filesystem::path(*to).is_absolute()) {
    return fail(ErrorKind::kUsage, "to is missing or no absolute path: the file to write");
  }
  TRY(const auto stop, flag(params, "stop"));
  TRY(check_possible(stop));
  TRY(auto pagemap, Pagemap::open());
  TRY(auto* machine, guest_.begin_task("a snapshot", [this] {
    if (session_) session_->cancel();
  }));
  auto manifest = machine_manifest(config_, resources_);
  auto made = [&]() -> Result<std::unique_ptr<migration::SnapshotFile>> {
    TRY(manifest.id, migration::MigrationId::random());
    return migration::SnapshotFile::create(*to, *calls_);
  }();
  if (!made) {
    guest_.end_task();
    return fail(std::move(made).error());
  }
  manifest.cpu_identity = machine->identity();
  manifest.paused = guest_.paused();
  path_ = *to;
  stops_ = stop;
  last_.reset();
  session_ = std::make_unique<Session>(*this, *machine, std::move(manifest),
                                       std::move(made).value(), std::move(pagemap));
  expect_client();
  session_->start();
  return json::value(json::object());
}

void OutgoingSnapshot::expect_client() {
  client_.expires_after(patience_);
  client_.async_wait([this](const boost::system::error_code& error) {
    if (error || !session_) return;
    log(LogLevel::kWarning, "nobody waits for the snapshot any more: cancelled");
    session_->cancel();
  });
}

void OutgoingSnapshot::finished(Result<Report> result) {
  client_.cancel();
  if (result) {
    log(LogLevel::kInfo, "{} was saved to {}", config_.name, path_);
  } else {
    log(LogLevel::kWarning, "snapshot: {}", result.error().message());
  }
  const bool ends = result && stops_;
  last_ = std::move(result);
  session_.reset();
  guest_.end_task();
  if (ends) depart_soon(kLinger);
}

void OutgoingSnapshot::depart_soon(std::chrono::milliseconds delay) {
  departure_.expires_after(delay);
  departure_.async_wait([this](const boost::system::error_code& error) {
    if (!error) guest_.depart();
  });
}

Result<json::value> OutgoingSnapshot::progress() {
  if (session_) {
    expect_client();
    return json::value{
        {"progress", {{"done_bytes", session_->done_bytes()}, {"bytes", config_.memory}}}};
  }
  if (!last_) return fail(ErrorKind::kFailed, "no snapshot of {} was asked for", config_.name);
  if (!*last_) return fail(last_->error());
  const auto& [bytes, paused] = last_->value();
  if (stops_) depart_soon(kReplyTime);
  auto summary = fmt::format("{} saved to {}: {} MiB of {} MiB memory, ", config_.name, path_,
                             bytes >> 20, config_.memory >> 20);
  summary += stops_ ? "and ended" : fmt::format("paused for {:.1f} ms", in_ms(paused));
  json::object report{{"bytes", bytes}, {"stopped", stops_}, {"paused_ms", nullptr}};
  if (!stops_) report["paused_ms"] = in_ms(paused);
  return json::value{{"report", std::move(report)}, {"summary", summary + "\n"}};
}

Result<json::value> OutgoingSnapshot::cancel() {
  if (!session_) return fail(ErrorKind::kFailed, "no snapshot of {} is being made", config_.name);
  session_->cancel();
  return json::value(json::object());
}

}  // namespace vmm
