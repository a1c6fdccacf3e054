#pragma once

#include <fmt/format.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "movable_fakes.h"
#include "vmm/guest.h"
#include "vmm_support.h"

namespace vmm {

// What a machine was told, in one word each; it outlives the machine.
using MachineLog = std::vector<std::string>;

class FakeMachine final : public Machine {
 public:
  FakeMachine(MachineLog& log, std::string& uart, std::string& hvc, virtio::Balloon* balloon)
      : log_(log), uart_(uart), hvc_(hvc), balloon_(balloon) {
    log_.push_back("new");
  }
  ~FakeMachine() override { log_.push_back("gone"); }

  void resume() override { log_.push_back("resume"); }
  void pause() override { log_.push_back("pause"); }
  void set_power_key(bool pressed) override { log_.push_back(pressed ? "press" : "release"); }
  std::size_t serial_input(std::span<const std::byte> bytes) override {
    uart_ += text_of(bytes);
    return bytes.size();
  }
  std::size_t virtio_console_input(std::span<const std::byte> bytes) override {
    hvc_ += text_of(bytes);
    return bytes.size();
  }
  void set_console_size(std::uint16_t cols, std::uint16_t rows) override {
    log_.push_back(fmt::format("{}x{}", cols, rows));
  }
  virtio::Balloon* balloon() override { return balloon_; }
  FakeMovable& movable() override { return movable_; }
  std::vector<VcpuStats> vcpu_stats() const override { return std::vector<VcpuStats>(2); }
  std::vector<DeviceStats> device_stats() const override { return std::vector<DeviceStats>(3); }

 private:
  MachineLog& log_;
  std::string& uart_;
  std::string& hvc_;
  virtio::Balloon* balloon_;
  FakeMovable movable_{2 << 20};
};

class Recorder final : public ConsoleListener {
 public:
  void console_output(std::span<const std::byte> bytes) override { text += text_of(bytes); }
  std::string text;
};

// A guest with fake machines; `handlers` are their ways to report events.
struct GuestRig {
  GuestRig()
      : guest(
            loop, console, &virtio_console,
            [this](Machine::EventHandler on_event) -> Result<std::unique_ptr<Machine>> {
              if (factory_fails) return fail(ErrorKind::kHost, "no memory left");
              handlers.push_back(std::move(on_event));
              auto made = std::make_unique<FakeMachine>(log, uart, hvc, balloon);
              machine = made.get();
              return std::unique_ptr<Machine>(std::move(made));
            },
            [this](Result<> result) { ends.push_back(std::move(result)); }) {}

  void poll() {
    loop.restart();
    loop.poll();
  }
  void send(VcpuEvent event) {
    handlers.back()(std::move(event));
    poll();
  }

  boost::asio::io_context loop;
  Console console{loop};
  Console virtio_console{loop};
  virtio::Balloon* balloon = nullptr;  // of the machine that is made next
  bool factory_fails = false;
  std::vector<Machine::EventHandler> handlers;
  FakeMachine* machine = nullptr;  // the one that was made last
  MachineLog log;
  std::string uart;
  std::string hvc;
  std::vector<Result<>> ends;
  Guest guest;
};

}  // namespace vmm
