#include "vmm/kvm_machine.h"

#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/post.hpp>

#include <cstdlib>
#include <optional>

#include "base/log.h"
#include "devices/mmio_bus.h"
#include "devices/pl011.h"
#include "devices/pl031.h"
#include "devices/pl061.h"
#include "devices/virtio/mmio_transport.h"
#include "kvm/dirty_log.h"
#include "kvm/vm.h"
#include "memory/guest_memory.h"
#include "vmm/asio_loop.h"
#include "vmm/boot.h"
#include "vmm/host_check.h"
#include "vmm/layout.h"
#include "vmm/machine_state.h"
#include "vmm/vcpu_throttle.h"
#include "vmm/virtio_devices.h"

namespace vmm {
namespace {

using WallTimer = boost::asio::basic_waitable_timer<std::chrono::system_clock>;

// An input of the GIC.
class SpiLine final : public InterruptLine {
 public:
  SpiLine(kvm::Vm& vm, unsigned spi) : vm_(vm), spi_(spi) {}

  void set_level(bool level) override {
    const auto result = vm_.set_spi_level(spi_, level);
    if (!result) {
      // The GIC exists and has this input; anything else is a bug of ours.
      log(LogLevel::kError, "SPI {}: {}", spi_, result.error().message());
      std::abort();
    }
  }

 private:
  kvm::Vm& vm_;
  const unsigned spi_;
};

// An edge-triggered input of the GIC, raised by an eventfd.
class SpiEvent final : public EdgeInterrupt {
 public:
  [[nodiscard]] static Result<std::unique_ptr<SpiEvent>> create(kvm::Vm& vm, unsigned spi) {
    TRY(auto fd, make_eventfd());
    TRY(vm.add_irqfd(fd, spi));
    return std::unique_ptr<SpiEvent>(new SpiEvent(std::move(fd)));
  }

  void trigger() override { signal_eventfd(fd_); }

 private:
  explicit SpiEvent(Fd fd) : fd_(std::move(fd)) {}

  const Fd fd_;
};

// A virtio device with its connection to the GIC.
struct VirtioSlot {
  std::unique_ptr<SpiEvent> interrupt;
  std::unique_ptr<virtio::MmioTransport> transport;
};

// The real-time clock's alarm on the event loop.
class LoopAlarm final : public AlarmTimer {
 public:
  explicit LoopAlarm(boost::asio::io_context& loop) : loop_(loop), timer_(loop) {}

  void connect(Pl031& rtc) { rtc_ = &rtc; }

  void arm_at(std::optional<std::int64_t> wall_seconds) override {
    // Called from any thread: the timer belongs to the loop, and may be gone before it gets there.
    boost::asio::post(loop_, [this, alive = std::weak_ptr<int>(alive_), wall_seconds] {
      if (!alive.expired()) set(wall_seconds);
    });
  }

 private:
  void set(std::optional<std::int64_t> wall_seconds) {
    timer_.cancel();
    if (!wall_seconds) return;
    timer_.expires_at(std::chrono::system_clock::from_time_t(*wall_seconds));
    timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error && rtc_ != nullptr) rtc_->on_alarm();
    });
  }

  boost::asio::io_context& loop_;
  WallTimer timer_;
  Pl031* rtc_ = nullptr;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

class KvmMachine final : public Machine, private MovableMachine {
 public:
  KvmMachine(kvm::Vm vm, GuestMemory memory, Console& console, boost::asio::io_context& loop)
      : memory_(std::move(memory)),
        vm_(std::move(vm)),
        uart_line_(vm_, layout::kUartSpi),
        rtc_line_(vm_, layout::kRtcSpi),
        gpio_line_(vm_, layout::kGpioSpi),
        alarm_(loop),
        device_loop_(loop),
        uart_(uart_line_, console),
        rtc_(rtc_line_, clock_, alarm_),
        gpio_(gpio_line_) {
    alarm_.connect(rtc_);
    uart_.set_on_rx_space([&console] { console.device_has_space(); });
  }

  [[nodiscard]] Result<> build(const MachineParts& parts, const EventHandler& on_event) {
    const GuestConfig& config = parts.config;
    std::optional<MachineIdentity> identity;
    if (parts.identity != nullptr) {
      TRY(identity, decode_identity(*parts.identity));
    }
    const auto& ram = memory_.regions()[0];
    TRY(log_, kvm::KvmDirtyLog::create(vm_, 0, ram.ipa, ram.bytes));
    TRY(auto vcpus, make_vcpus(config, identity));
    TRY(make_gic(config, identity));
    TRY(plug_devices(parts));
    if (!identity) {
      TRY(const auto entry, load_boot_images(config, affinities_, memory_));
      TRY(vcpus[0]->set_boot_registers(entry.kernel, entry.device_tree));
    }
    TRY(remember_identity());
    for (unsigned index = 0; index < config.vcpus; ++index) {
      threads_.push_back(
          std::make_unique<VcpuThread>(index, std::move(vcpus[index]), bus_, on_event));
    }
    return success();
  }

  void resume() override {
    for (const auto& slot : slots_) slot.transport->resume();
    for (const auto& thread : threads_) thread->resume();
  }

  void pause() override {
    for (const auto& thread : threads_) thread->request_pause();
    for (const auto& thread : threads_) thread->wait_paused();
    for (const auto& slot : slots_) slot.transport->quiesce();
  }

  void set_power_key(bool pressed) override { gpio_.set_input(layout::kPowerKeyLine, pressed); }

  [[nodiscard]] std::size_t serial_input(std::span<const std::byte> bytes) override {
    return uart_.receive(bytes);
  }

  [[nodiscard]] std::size_t virtio_console_input(std::span<const std::byte> bytes) override {
    return virtio_console_ != nullptr ? virtio_console_->receive(bytes) : 0;
  }
  void set_console_size(std::uint16_t cols, std::uint16_t rows) override {
    if (virtio_console_ != nullptr) virtio_console_->set_size(cols, rows);
  }
  [[nodiscard]] virtio::Balloon* balloon() override { return balloon_; }
  [[nodiscard]] MovableMachine& movable() override { return *this; }

  [[nodiscard]] std::vector<VcpuStats> vcpu_stats() const override {
    std::vector<VcpuStats> stats;
    for (const auto& thread : threads_) {
      const auto& counts = thread->exit_counts();
      stats.push_back({thread->state(), thread->cpu_time(), counts.mmio_reads, counts.mmio_writes,
                       counts.unclaimed, counts.undecoded, counts.interrupted});
    }
    return stats;
  }

  [[nodiscard]] std::vector<DeviceStats> device_stats() const override {
    std::vector<DeviceStats> stats;
    for (const auto& slot : slots_) {
      const auto& device = slot.transport->device();
      stats.push_back({std::string(device.name()), device.counters()});
    }
    return stats;
  }

 private:
  [[nodiscard]] Result<std::vector<std::unique_ptr<kvm::Vcpu>>> make_vcpus(
      const GuestConfig& config, const std::optional<MachineIdentity>& identity) {
    kvm::VcpuFeatures features{config.cpu.sve, config.cpu.pauth, config.cpu.pmu};
    if (identity) features.sve_lengths = identity->cpu.sve_lengths;
    std::vector<std::unique_ptr<kvm::Vcpu>> vcpus;
    for (unsigned index = 0; index < config.vcpus; ++index) {
      auto created = vm_.create_vcpu(index, features);
      if (!created) {
        return fail(std::move(created).error().add_context(fmt::format("vCPU {}", index)));
      }
      auto vcpu = std::move(created).value();
      if (identity) {
        TRY(vcpu->apply(identity->cpu));
      }
      TRY(const auto affinity, vcpu->affinity());
      affinities_.push_back(affinity);
      vcpus_.push_back(vcpu.get());
      vcpus.push_back(std::move(vcpu));
    }
    return vcpus;
  }

  [[nodiscard]] Result<> make_gic(const GuestConfig& config,
                                  const std::optional<MachineIdentity>& identity) {
    auto gic = vm_.create_gic(layout::kGicDistributor.base, layout::kGicRedistributors.base,
                              layout::kSpiCount);
    if (!gic) return fail(std::move(gic).error().add_context("GICv3"));
    gic_.emplace(std::move(gic).value());
    if (identity) {
      TRY(gic_->set_iidr(identity->gic_iidr));
    }
    if (!config.cpu.pmu) return success();
    constexpr std::uint32_t kFirstPpi = 16;
    for (auto* vcpu : vcpus_) {
      TRY(vcpu->init_pmu(kFirstPpi + layout::kPmuPpi));
    }
    return success();
  }

  [[nodiscard]] Result<> plug_devices(const MachineParts& parts) {
    TRY(bus_.add(layout::kUart.base, layout::kUart.size, uart_));
    TRY(bus_.add(layout::kRtc.base, layout::kRtc.size, rtc_));
    TRY(bus_.add(layout::kGpio.base, layout::kGpio.size, gpio_));
    TRY(auto devices, make_virtio_devices(parts.config, parts.resources, memory_, device_loop_,
                                          parts.virtio_console));
    nets_ = devices.nets;
    balloon_ = devices.balloon;
    virtio_console_ = devices.console;
    if (virtio_console_ != nullptr) {
      virtio_console_->set_on_rx_space(
          [&console = parts.virtio_console] { console.device_has_space(); });
    }
    for (auto& device : devices.slots) {
      TRY(with_context(plug(std::move(device)), "virtio device"));
    }
    return success();
  }

  // While a vCPU runs, KVM would not say.
  [[nodiscard]] Result<> remember_identity() {
    MachineIdentity identity;
    TRY(identity.cpu, vcpus_[0]->identity());
    TRY(identity.gic_iidr, gic_->iidr());
    identity_ = encode(identity);
    return success();
  }

  // All devices, in the order in which their states are saved.
  [[nodiscard]] std::vector<Device*> devices() {
    std::vector<Device*> all{&uart_, &rtc_, &gpio_};
    for (const auto& slot : slots_) all.push_back(slot.transport.get());
    return all;
  }

  // --- MovableMachine ---

  [[nodiscard]] GuestMemory& memory() override { return memory_; }
  [[nodiscard]] DirtyLog& dirty_log() override { return *log_; }

  void throttle(unsigned percent) override { throttle_.set(percent); }

  [[nodiscard]] const std::vector<std::byte>& identity() const override { return identity_; }

  [[nodiscard]] Result<std::vector<std::byte>> save() override {
    MachineState state;
    TRY(state.counter, vcpus_[0]->save_counter());
    for (const auto* vcpu : vcpus_) {
      TRY(auto saved, vcpu->save());
      state.vcpus.push_back(std::move(saved));
    }
    TRY(state.gic, gic_->save(affinities_));
    ByteWriter writer;
    encode(state, writer);
    save_devices(devices(), writer);
    return writer.take();
  }

  [[nodiscard]] Result<> restore(std::span<const std::byte> bytes) override {
    ByteReader reader(bytes);
    TRY(const auto state, decode_state(reader, vcpus_.size()));
    for (std::size_t index = 0; index < vcpus_.size(); ++index) {
      TRY(with_context(vcpus_[index]->restore(state.vcpus[index]), fmt::format("vCPU {}", index)));
    }
    TRY(with_context(gic_->restore(state.gic, affinities_), "GICv3"));
    counter_ = state.counter;
    TRY(restore_devices(devices(), reader));
    return reader.expect_end();
  }

  [[nodiscard]] Result<> advance_counter(std::chrono::nanoseconds elapsed) override {
    return vcpus_[0]->restore_counter(counter_, static_cast<std::uint64_t>(elapsed.count()));
  }

  void announce() override {
    for (auto* net : nets_) net->announce();
  }

  // Puts a virtio device into the next slot.
  [[nodiscard]] Result<> plug(std::unique_ptr<virtio::VirtioDevice> device) {
    const auto number = static_cast<unsigned>(slots_.size());
    const std::uint64_t base = layout::kVirtio.base + number * layout::kVirtioWindow;
    VirtioSlot slot;
    TRY(slot.interrupt, SpiEvent::create(vm_, layout::kVirtioSpi + number));
    TRY(slot.transport,
        virtio::MmioTransport::create(std::move(device), memory_, *slot.interrupt, device_loop_));
    for (std::uint32_t queue = 0; queue < slot.transport->queue_count(); ++queue) {
      TRY(vm_.add_ioeventfd(slot.transport->kick_fd(queue),
                            base + virtio::MmioTransport::kNotifyOffset, queue));
    }
    TRY(bus_.add(base, layout::kVirtioWindow, *slot.transport));
    slots_.push_back(std::move(slot));
    return success();
  }

  // In the order in which things depend on each other: the threads go first, the memory last.
  GuestMemory memory_;
  kvm::Vm vm_;
  std::unique_ptr<kvm::KvmDirtyLog> log_;
  std::optional<kvm::Gic> gic_;
  std::vector<std::byte> identity_;
  kvm::Counter counter_;  // of the state that was restored last
  SpiLine uart_line_;
  SpiLine rtc_line_;
  SpiLine gpio_line_;
  SystemClock clock_;
  LoopAlarm alarm_;
  AsioLoop device_loop_;
  Pl011 uart_;
  Pl031 rtc_;
  Pl061 gpio_;
  std::vector<VirtioSlot> slots_;
  std::vector<virtio::Net*> nets_;             // in slots
  virtio::Balloon* balloon_ = nullptr;         // in a slot, if there is one
  virtio::Console* virtio_console_ = nullptr;  // likewise
  MmioBus bus_;
  std::vector<kvm::Vcpu*> vcpus_;  // of the threads, in order of their index
  std::vector<std::uint64_t> affinities_;
  std::vector<std::unique_ptr<VcpuThread>> threads_;
  VcpuThrottle throttle_{[this](bool held) {
    for (const auto& thread : threads_) thread->hold(held);
  }};
};

}  // namespace

MachineMaker kvm_machines(const kvm::System& system) {
  return [&system](const MachineParts& parts,
                   Machine::EventHandler on_event) -> Result<std::unique_ptr<Machine>> {
    const auto& config = parts.config;
    TRY(auto memory, GuestMemory::create(layout::kRamBase, config.memory,
                                         config.hugetlb ? Backing::kHugetlb : Backing::kAnonymous));
    TRY(auto vm, system.create_vm(ipa_bits_for(config.memory)));
    auto machine =
        std::make_unique<KvmMachine>(std::move(vm), std::move(memory), parts.console, parts.loop);
    TRY(machine->build(parts, on_event));
    return std::unique_ptr<Machine>(std::move(machine));
  };
}

}  // namespace vmm
