#pragma once

#include <boost/asio/io_context.hpp>

#include <map>
#include <memory>

#include "devices/event_loop.h"

namespace vmm {

// The event loop of the process, as devices see it.
class AsioLoop final : public EventLoop {
 public:
  // loop must outlive this and all watches and timers.
  explicit AsioLoop(boost::asio::io_context& loop) : loop_(loop) {}

  [[nodiscard]] std::unique_ptr<Watch> watch_readable(const Fd& fd,
                                                      std::function<void()> on_ready) override;
  [[nodiscard]] std::unique_ptr<Watch> watch_writable(const Fd& fd,
                                                      std::function<void()> on_ready) override;
  [[nodiscard]] std::unique_ptr<LoopTimer> make_timer(std::function<void()> on_expiry) override;

  class Descriptor;

 private:
  [[nodiscard]] std::shared_ptr<Descriptor> descriptor(const Fd& fd);

  boost::asio::io_context& loop_;
  std::map<int, std::weak_ptr<Descriptor>> descriptors_;
};

}  // namespace vmm
