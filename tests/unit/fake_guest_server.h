#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "vmm/control_server.h"
#include "vmm_support.h"

namespace vmm {

// A variable of the environment that is what it was again at the end.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    if (::setenv(name, value.c_str(), 1) != 0) std::abort();
  }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;
  ~ScopedVariable() {
    if (old_) {
      ::setenv(name_, old_->c_str(), 1);
    } else {
      ::unsetenv(name_);
    }
  }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

// Folders of its own for control sockets and records, where commands look for them.
class CommandFolders {
 public:
  CommandFolders() { std::filesystem::create_directory(sockets()); }

  [[nodiscard]] std::filesystem::path sockets() const { return dir_ / "vmm"; }
  [[nodiscard]] std::filesystem::path records() const { return dir_ / "vmm/migrations"; }

 private:
  TempDir dir_;
  ScopedVariable runtime_{"XDG_RUNTIME_DIR", dir_.path()};
  ScopedVariable state_{"XDG_STATE_HOME", dir_.path()};
};

// The process of a guest named "web" as commands see it: methods are added before start(), and
// called on a thread of its own.
class FakeGuestServer {
 public:
  explicit FakeGuestServer(const CommandFolders& folders) {
    auto server = ControlServer::listen(*loop_, folders.sockets() / "web.sock", *console_);
    if (!server) std::abort();
    server_ = std::move(server).value();
  }
  FakeGuestServer(const FakeGuestServer&) = delete;
  FakeGuestServer& operator=(const FakeGuestServer&) = delete;
  ~FakeGuestServer() {
    {
      const std::lock_guard lock(mutex_);
      if (loop_) loop_->stop();
    }
    if (thread_.joinable()) thread_.join();
  }

  void on(const std::string& method, ControlServer::Method function) {
    server_->add_method(method, std::move(function));
  }
  void start() {
    thread_ = std::thread([this] {
      loop_->run();
      ended_ = true;
      // Connections close as those of a process that ends.
      const std::lock_guard lock(mutex_);
      server_.reset();
      console_.reset();
      end_.reset();
      loop_.reset();
    });
  }
  // The process dies in the middle of the method that calls this.
  void die() { loop_->stop(); }
  // The process ends by itself, when the reply of the method that calls this has gone out.
  void end_soon() {
    end_->expires_after(std::chrono::milliseconds(50));
    end_->async_wait([this](const boost::system::error_code& error) {
      if (!error) loop_->stop();
    });
  }
  [[nodiscard]] bool ended() const { return ended_; }

 private:
  std::mutex mutex_;
  std::unique_ptr<boost::asio::io_context> loop_ = std::make_unique<boost::asio::io_context>(1);
  std::unique_ptr<Console> console_ = std::make_unique<Console>(*loop_);
  std::unique_ptr<ControlServer> server_;
  std::optional<boost::asio::steady_timer> end_{*loop_};
  std::atomic<bool> ended_ = false;
  std::thread thread_;
};

}  // namespace vmm
