#include "devices/virtio/mmio_transport.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "devices/device_state.h"
#include "devices/virtio/ring.h"

namespace vmm::virtio {
namespace {

constexpr std::uint32_t kMagic = 0x7472'6976;   // "virt"
constexpr std::uint32_t kVendor = 0x004d'4d56;  // "VMM"
constexpr std::uint32_t kVersion = 2;
constexpr std::uint32_t kStateVersion = 1;
constexpr std::size_t kMaxDeviceState = 64 * 1024;

constexpr std::uint32_t kAllStatusBits = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                         VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK |
                                         VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
constexpr std::uint32_t kAllCauses = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG;
constexpr std::uint64_t kTransportFeatures = std::uint64_t{1} << VIRTIO_F_VERSION_1 |
                                             std::uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC |
                                             std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX;

constexpr std::uint32_t half(std::uint64_t value, std::uint32_t select) {
  if (select > 1) return 0;
  return static_cast<std::uint32_t>(value >> (32 * select));
}

constexpr std::uint64_t with_half(std::uint64_t value, bool high, std::uint32_t half_value) {
  const std::uint64_t keep = high ? 0xffff'ffffULL : 0xffff'ffffULL << 32;
  return (value & keep) | std::uint64_t{half_value} << (high ? 32 : 0);
}

constexpr bool is_running(std::uint32_t status) {
  return (status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && (status & VIRTIO_CONFIG_S_NEEDS_RESET) == 0;
}

}  // namespace

MmioTransport::MmioTransport(std::unique_ptr<VirtioDevice> device, GuestMemory& memory,
                             EdgeInterrupt& interrupt)
    : device_(std::move(device)), memory_(memory), interrupt_(interrupt) {
  state_.queues.resize(device_->queue_limits().size());
}

Result<std::unique_ptr<MmioTransport>> MmioTransport::create(std::unique_ptr<VirtioDevice> device,
                                                             GuestMemory& memory,
                                                             EdgeInterrupt& interrupt,
                                                             EventLoop& loop) {
  std::unique_ptr<MmioTransport> transport(new MmioTransport(std::move(device), memory, interrupt));
  transport->kicks_.resize(transport->state_.queues.size());
  for (unsigned queue = 0; queue < transport->kicks_.size(); ++queue) {
    Kick& kick = transport->kicks_[queue];
    TRY(kick.fd, make_eventfd());
    kick.watch =
        loop.watch_readable(kick.fd, [self = transport.get(), queue] { self->on_kick(queue); });
  }
  const MutexLock lock(transport->device_->mutex_);
  transport->device_->transport_ = transport.get();
  return transport;
}

// --- What the device asks for ---

void MmioTransport::raise(std::uint32_t cause) {
  state_.interrupt_status |= cause;
  interrupt_.trigger();
}

void MmioTransport::notify_used() {
  raise(VIRTIO_MMIO_INT_VRING);
}

void MmioTransport::notify_config() {
  ++state_.config_generation;
  if ((state_.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0) raise(VIRTIO_MMIO_INT_CONFIG);
}

void MmioTransport::needs_reset(const Error& reason) {
  if (!complained_) {
    log(LogLevel::kWarning, "{}: the guest's driver broke the protocol: {}", device_->name(),
        reason.message());
    complained_ = true;
  }
  state_.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
  update_active();
  if ((state_.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0) raise(VIRTIO_MMIO_INT_CONFIG);
}

void MmioTransport::process_again(unsigned queue) {
  signal_eventfd(kicks_[queue].fd);
}

// --- Kicks ---

void MmioTransport::on_kick(unsigned queue) {
  std::uint64_t count = 0;
  // Nothing to read is a kick that was handled before.
  if (::read(kicks_[queue].fd.get(), &count, sizeof count) < 0) return;
  const MutexLock lock(device_->mutex_);
  if (device_->active() && device_->queue(queue) != nullptr) device_->process(queue);
}

void MmioTransport::kick_all() {
  for (const Kick& kick : kicks_) signal_eventfd(kick.fd);
}

void MmioTransport::quiesce() {
  const MutexLock lock(device_->mutex_);
  if (quiet_) return;
  device_->quiesce();
  quiet_ = true;
  update_active();
}

void MmioTransport::resume() {
  const MutexLock lock(device_->mutex_);
  if (!quiet_) return;
  quiet_ = false;
  update_active();
  // KVM delivers an edge in its own time: where the machine has moved, the interrupt controller may
  // have been saved before.
  if (state_.interrupt_status != 0) interrupt_.trigger();
  device_->resume();
  if (device_->active()) kick_all();
}

// --- Registers ---

void MmioTransport::mmio_read(std::uint64_t offset, std::span<std::byte> data) {
  const MutexLock lock(device_->mutex_);
  if (offset >= VIRTIO_MMIO_CONFIG) {
    device_->read_config(offset - VIRTIO_MMIO_CONFIG, data);
    return;
  }
  const bool whole = offset % 4 == 0 && data.size() == 4;
  store_register32(data, whole ? read_register(offset) : 0);
}

void MmioTransport::mmio_write(std::uint64_t offset, std::span<const std::byte> data) {
  const MutexLock lock(device_->mutex_);
  if (offset >= VIRTIO_MMIO_CONFIG) {
    device_->write_config(offset - VIRTIO_MMIO_CONFIG, data);
    return;
  }
  if (offset % 4 == 0 && data.size() == 4) write_register(offset, load_register32(data));
}

std::uint64_t MmioTransport::offered_features() const {
  return device_->offered_features() | kTransportFeatures;
}

bool MmioTransport::acceptable(std::uint64_t features) const {
  return (features >> VIRTIO_F_VERSION_1 & 1) != 0 && (features & ~offered_features()) == 0;
}

std::uint32_t MmioTransport::read_register(std::uint64_t offset) const {
  const bool has_queue = state_.queue_select < state_.queues.size();
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagic;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return device_->type();
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      return half(offered_features(), state_.device_features_select);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return has_queue ? device_->queue_limits()[state_.queue_select].max_size : 0U;
    case VIRTIO_MMIO_QUEUE_READY:
      return has_queue && state_.queues[state_.queue_select].config.ready ? 1 : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
      return state_.interrupt_status;
    case VIRTIO_MMIO_STATUS:
      return state_.status;
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return ~std::uint32_t{0};  // there is no shared memory region (virtio 1.2, 4.2.2)
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return state_.config_generation;
    default:
      return 0;
  }
}

void MmioTransport::write_register(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      state_.device_features_select = value;
      break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      state_.driver_features_select = value;
      break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      write_driver_features(value);
      break;
    case VIRTIO_MMIO_QUEUE_SEL:
      state_.queue_select = value;
      break;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
      // Where KVM knows the kick's eventfd, this is not reached.
      if (value < kicks_.size()) signal_eventfd(kicks_[value].fd);
      break;
    case VIRTIO_MMIO_INTERRUPT_ACK:
      state_.interrupt_status &= ~value;
      break;
    case VIRTIO_MMIO_STATUS:
      write_status(value);
      break;
    default:
      write_queue_register(offset, value);
      break;
  }
}

void MmioTransport::write_driver_features(std::uint32_t value) {
  if ((state_.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0 || state_.driver_features_select > 1) {
    return;
  }
  state_.driver_features =
      with_half(state_.driver_features, state_.driver_features_select == 1, value);
}

void MmioTransport::write_queue_register(std::uint64_t offset, std::uint32_t value) {
  if ((state_.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0) return;
  if (state_.queue_select >= state_.queues.size()) return;
  QueueConfig& config = state_.queues[state_.queue_select].config;
  if (offset == VIRTIO_MMIO_QUEUE_READY) {
    config.ready = (value & 1) != 0;
    return;
  }
  if (config.ready) return;
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      // No queue is that large; what does not fit is as wrong as 0.
      config.size = value > UINT16_MAX ? 0 : static_cast<std::uint16_t>(value);
      break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      config.descriptors =
          with_half(config.descriptors, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
      break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      config.available = with_half(config.available, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
      break;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
      config.used = with_half(config.used, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
      break;
    default:
      break;
  }
}

// --- Status ---

void MmioTransport::write_status(std::uint32_t value) {
  if (value == 0) {
    reset_locked();
    return;
  }
  // The driver only ever adds bits, and NEEDS_RESET is not its to set (virtio 1.2, 2.1.1).
  const std::uint32_t allowed = kAllStatusBits & ~std::uint32_t{VIRTIO_CONFIG_S_NEEDS_RESET};
  std::uint32_t added = value & allowed & ~state_.status;
  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
    // Features that cannot be had are refused by leaving the bit clear (virtio 1.2, 3.1.1).
    if (!acceptable(state_.driver_features)) added &= ~std::uint32_t{VIRTIO_CONFIG_S_FEATURES_OK};
  }
  state_.status |= added;
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0) activate();
}

void MmioTransport::activate() {
  if ((state_.status & VIRTIO_CONFIG_S_FEATURES_OK) == 0) {
    needs_reset(make_error(ErrorKind::kFailed, "DRIVER_OK without FEATURES_OK"));
    return;
  }
  auto queues = make_queues(state_);
  if (!queues) {
    needs_reset(queues.error());
    return;
  }
  start(std::move(queues).value());
  kick_all();
}

Result<std::vector<std::optional<Queue>>> MmioTransport::make_queues(const State& state) const {
  const bool event_index = (state.driver_features >> VIRTIO_RING_F_EVENT_IDX & 1) != 0;
  std::vector<std::optional<Queue>> queues(state.queues.size());
  for (std::size_t index = 0; index < queues.size(); ++index) {
    const auto& [config, progress] = state.queues[index];
    if (!config.ready) continue;
    auto queue =
        Queue::create(memory_, config, device_->queue_limits()[index], event_index, progress);
    if (!queue) {
      return fail(std::move(queue).error().add_context(fmt::format("queue {}", index)));
    }
    queues[index] = std::move(queue).value();
  }
  return queues;
}

void MmioTransport::start(std::vector<std::optional<Queue>> queues) {
  device_->queues_ = std::move(queues);
  device_->features_ = state_.driver_features;
  update_active();
  device_->activate();
}

void MmioTransport::update_active() {
  device_->active_ = is_running(state_.status) && !quiet_;
}

void MmioTransport::reset() {
  const MutexLock lock(device_->mutex_);
  reset_locked();
}

void MmioTransport::reset_locked() {
  state_.status = 0;
  update_active();
  device_->reset();
  device_->queues_.clear();
  device_->features_ = 0;
  const std::size_t queues = state_.queues.size();
  // The generation goes on, so that a driver never mistakes new contents for old.
  const std::uint32_t generation = state_.config_generation;
  state_ = State{};
  state_.config_generation = generation;
  state_.queues.resize(queues);
}

// --- Saved state ---

void MmioTransport::save(ByteWriter& writer) const {
  const MutexLock lock(device_->mutex_);
  writer.put(kStateVersion);
  writer.put(state_.status);
  writer.put(state_.driver_features);
  writer.put(state_.device_features_select);
  writer.put(state_.driver_features_select);
  writer.put(state_.queue_select);
  writer.put(state_.interrupt_status);
  writer.put(state_.config_generation);
  writer.put(static_cast<std::uint32_t>(state_.queues.size()));
  for (unsigned index = 0; index < state_.queues.size(); ++index) {
    const auto& [config, progress] = state_.queues[index];
    const Queue* live = device_->queue(index);
    save_queue(writer, config, live != nullptr ? live->progress() : progress);
  }
  ByteWriter device_state;
  device_->save_state(device_state);
  writer.put_blob(device_state.bytes());
}

Result<MmioTransport::State> MmioTransport::decode(ByteReader& reader) const {
  TRY(expect_state_version(reader, name(), kStateVersion));
  State state;
  TRY(state.status, get_register<std::uint32_t>(reader, name(), "status", kAllStatusBits));
  TRY(state.driver_features, reader.get<std::uint64_t>());
  TRY(state.device_features_select, reader.get<std::uint32_t>());
  TRY(state.driver_features_select, reader.get<std::uint32_t>());
  TRY(state.queue_select, reader.get<std::uint32_t>());
  TRY(state.interrupt_status,
      get_register<std::uint32_t>(reader, name(), "interrupt status", kAllCauses));
  TRY(state.config_generation, reader.get<std::uint32_t>());
  const bool agreed = (state.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  const bool started = (state.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
  const bool broken = (state.status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
  if ((broken && !started) || (started && !agreed && !broken)) {
    return fail(bad_state_field(name(), "status", state.status));
  }
  if (agreed && !acceptable(state.driver_features)) {
    return fail(bad_state_field(name(), "features", state.driver_features));
  }
  TRY(const auto queues, reader.get<std::uint32_t>());
  if (queues != state_.queues.size()) return fail(bad_state_field(name(), "queues", queues));
  for (std::uint32_t index = 0; index < queues; ++index) {
    TRY(const auto queue, restore_queue(reader));
    if (!started && queue.progress != QueueProgress{}) {
      return fail(bad_state_field(name(), "progress of queue", index));
    }
    state.queues.push_back(queue);
  }
  return state;
}

Result<> MmioTransport::restore(ByteReader& reader) {
  const MutexLock lock(device_->mutex_);
  TRY(auto state, decode(reader));
  const bool running = is_running(state.status);
  std::vector<std::optional<Queue>> queues;
  if (running) {
    auto made = with_context(make_queues(state), std::string(name()));
    if (!made) return fail(std::move(made).error());
    queues = std::move(made).value();
  }
  TRY(const auto blob, reader.get_blob(kMaxDeviceState));
  ByteReader device_state(blob);
  TRY(device_->restore_state(device_state));
  state_ = std::move(state);
  if (running) start(std::move(queues));
  return success();
}

}  // namespace vmm::virtio
