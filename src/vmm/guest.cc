#include "vmm/guest.h"

#include <boost/asio/post.hpp>

#include "base/log.h"

namespace vmm {
namespace {

// How long the power key is held: drivers read the line some milliseconds after its interrupt, and
// a guest on a busy host may not get to run for much longer than that.
constexpr std::chrono::seconds kKeyPress{1};

}  // namespace

std::string_view to_string(GuestState state) {
  switch (state) {
    case GuestState::kIncoming:
      return "incoming";
    case GuestState::kRunning:
      return "running";
    case GuestState::kPaused:
      return "paused";
    case GuestState::kHandover:
      return "handover";
    case GuestState::kInDoubt:
      return "in doubt";
    case GuestState::kEnded:
      return "ended";
  }
  return "unknown";
}

Guest::Guest(boost::asio::io_context& loop, Console& console, Console* virtio_console,
             MachineFactory factory, EndHandler on_end)
    : loop_(loop),
      console_(console),
      virtio_console_(virtio_console),
      factory_(std::move(factory)),
      on_end_(std::move(on_end)),
      key_release_(loop),
      started_(std::chrono::steady_clock::now()) {}

Guest::~Guest() {
  drop_machine();
}

Result<> Guest::start() {
  TRY(make_machine());
  return resume();
}

Result<> Guest::start_incoming() {
  state_ = GuestState::kIncoming;
  return make_machine();
}

void Guest::arrive(bool paused) {
  if (virtio::Balloon* balloon = machine_->balloon()) balloon_target_ = balloon->status().target;
  // Whoever had pressed it there releases it there.
  machine_->set_power_key(false);
  if (!paused) machine_->resume();
  state_ = paused ? GuestState::kPaused : GuestState::kRunning;
  console_.device_has_space();
}

Result<> Guest::make_machine() {
  const auto generation = ++generation_;
  TRY(machine_, factory_([this, generation](VcpuEvent event) {
        boost::asio::post(loop_, [this, generation, event = std::move(event)] {
          if (generation == generation_) handle_event(event);
        });
      }));
  console_.connect_device([this](std::span<const std::byte> bytes) {
    // What a UART took behind the save of its state would be lost.
    const bool saved = state_ != GuestState::kRunning && state_ != GuestState::kPaused;
    return saved ? 0 : machine_->serial_input(bytes);
  });
  if (virtio_console_ != nullptr) {
    virtio_console_->connect_device(
        [this](std::span<const std::byte> bytes) { return machine_->virtio_console_input(bytes); },
        [this](TerminalSize size) { machine_->set_console_size(size.cols, size.rows); });
  }
  if (virtio::Balloon* balloon = machine_->balloon()) {
    balloon->set_target(balloon_target_);
    balloon->set_statistics_period(balloon_period_);
  }
  return success();
}

void Guest::drop_machine() {
  console_.connect_device({});
  if (virtio_console_ != nullptr) virtio_console_->connect_device({});
  key_release_.cancel();
  ++generation_;
  machine_.reset();
}

Result<> Guest::check_not_away() const {
  switch (state_) {
    case GuestState::kRunning:
    case GuestState::kPaused:
      return success();
    case GuestState::kIncoming:
      return fail(ErrorKind::kFailed, "the guest has not arrived yet");
    case GuestState::kHandover:
      return fail(ErrorKind::kFailed, "the guest stands still for {}",
                  task_ ? task_->name : "its end");
    case GuestState::kInDoubt:
      return fail(ErrorKind::kInDoubt,
                  "another host may run the guest; vmm migration resolve decides");
    case GuestState::kEnded:
      break;
  }
  return fail(ErrorKind::kFailed, "the guest has ended");
}

Result<> Guest::pause() {
  TRY(check_not_away());
  if (state_ == GuestState::kRunning) machine_->pause();
  state_ = GuestState::kPaused;
  return success();
}

Result<> Guest::resume() {
  TRY(check_not_away());
  if (state_ == GuestState::kPaused) machine_->resume();
  state_ = GuestState::kRunning;
  return success();
}

Result<> Guest::press_power_key() {
  TRY(check_not_away());
  if (state_ != GuestState::kRunning) {
    return fail(ErrorKind::kFailed, "the guest is {} and cannot shut down: resume or kill it",
                to_string(state_));
  }
  machine_->set_power_key(true);
  key_release_.expires_after(kKeyPress);
  key_release_.async_wait([this](const boost::system::error_code& error) {
    if (!error && machine_) machine_->set_power_key(false);
  });
  return success();
}

Result<virtio::Balloon*> Guest::balloon() {
  TRY(check_not_away());
  virtio::Balloon* balloon = machine_->balloon();
  if (balloon == nullptr) return fail(ErrorKind::kFailed, "the guest has no balloon");
  return balloon;
}

Result<> Guest::set_balloon_target(std::uint64_t bytes) {
  TRY(auto* device, balloon());
  balloon_target_ = bytes;
  device->set_target(bytes);
  return success();
}

Result<> Guest::set_balloon_period(std::chrono::seconds period) {
  TRY(auto* device, balloon());
  balloon_period_ = period;
  device->set_statistics_period(period);
  return success();
}

Result<virtio::Balloon::Status> Guest::balloon_status() {
  TRY(auto* device, balloon());
  device->request_statistics();
  return device->status();
}

Result<> Guest::check_killable() const {
  return state_ == GuestState::kInDoubt ? check_not_away() : Result<>(success());
}

Result<> Guest::kill(Error reason) {
  TRY(check_killable());
  change_machine([this, reason = std::move(reason)] { end(fail(reason)); });
  return success();
}

Result<MovableMachine*> Guest::begin_task(std::string name, std::function<void()> hurry) {
  if (state_ != GuestState::kIncoming) {
    TRY(check_not_away());
  }
  if (task_) return fail(ErrorKind::kFailed, "the guest is busy with {}", task_->name);
  task_ = Task{std::move(name), std::move(hurry), {}};
  return &machine_->movable();
}

void Guest::end_task() {
  if (!task_) return;
  const auto afterwards = std::move(task_->afterwards);
  task_.reset();
  if (afterwards && state_ != GuestState::kEnded) afterwards();
}

void Guest::change_machine(std::function<void()> change) {
  if (!task_) {
    change();
    return;
  }
  // The first cause wins: what comes later concerns a machine that is to go anyway.
  if (!task_->afterwards) task_->afterwards = std::move(change);
  task_->hurry();
}

Result<> Guest::suspend() {
  TRY(check_not_away());
  if (task_ && task_->afterwards) {
    return fail(ErrorKind::kFailed, "the guest has shut down or rebooted");
  }
  before_suspension_ = state_;
  if (state_ == GuestState::kRunning) machine_->pause();
  state_ = GuestState::kHandover;
  return success();
}

void Guest::unsuspend() {
  if (state_ != GuestState::kHandover && state_ != GuestState::kInDoubt) return;
  state_ = before_suspension_;
  if (state_ == GuestState::kRunning) machine_->resume();
  console_.device_has_space();
}

void Guest::set_in_doubt() {
  if (state_ == GuestState::kHandover) state_ = GuestState::kInDoubt;
}

void Guest::depart() {
  end(success());
}

bool Guest::paused() const {
  return state_ == GuestState::kPaused ||
         ((state_ == GuestState::kHandover || state_ == GuestState::kInDoubt) &&
          before_suspension_ == GuestState::kPaused);
}

void Guest::handle_event(const VcpuEvent& event) {
  change_machine([this, event] { apply_event(event); });
}

void Guest::apply_event(const VcpuEvent& event) {
  if (const Error* error = std::get_if<Error>(&event)) {
    end(fail(*error));
    return;
  }
  switch (std::get<GuestEvent>(event)) {
    case GuestEvent::kShutdown:
      end(success());
      break;
    case GuestEvent::kReset:
      reboot();
      break;
    case GuestEvent::kCrash:
      end(fail(ErrorKind::kFailed, "the guest reported a crash of its own"));
      break;
  }
}

void Guest::reboot() {
  log(LogLevel::kInfo, "the guest reboots");
  ++reboots_;
  drop_machine();
  if (auto made = make_machine(); !made) {
    end(fail(std::move(made).error().add_context("cannot reboot the guest")));
    return;
  }
  if (state_ == GuestState::kRunning) machine_->resume();
}

void Guest::end(Result<> result) {
  if (state_ == GuestState::kEnded) return;
  state_ = GuestState::kEnded;
  drop_machine();
  console_.flush();
  if (virtio_console_ != nullptr) virtio_console_->flush();
  on_end_(std::move(result));
}

std::chrono::milliseconds Guest::uptime() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                               started_);
}

std::vector<VcpuStats> Guest::vcpu_stats() const {
  return machine_ ? machine_->vcpu_stats() : std::vector<VcpuStats>();
}

std::vector<DeviceStats> Guest::device_stats() const {
  return machine_ ? machine_->device_stats() : std::vector<DeviceStats>();
}

}  // namespace vmm
