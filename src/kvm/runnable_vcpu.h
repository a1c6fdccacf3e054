#pragma once

#include <cstdint>

#include "base/result.h"
#include "kvm/exit.h"

namespace vmm::kvm {

// What the thread of a vCPU needs of it. Everything is for that thread alone, but request_exit().
class RunnableVcpu {
 public:
  RunnableVcpu() = default;
  RunnableVcpu(const RunnableVcpu&) = delete;
  RunnableVcpu& operator=(const RunnableVcpu&) = delete;
  virtual ~RunnableVcpu() = default;

  // Runs the guest until an exit. Spans in it stay valid until the next call.
  [[nodiscard]] virtual Result<Exit> run() = 0;

  // Makes run() return Interrupted, from any thread. The thread in run() must also be sent a signal
  // with a handler; allow_run() takes the request back.
  virtual void request_exit() = 0;
  virtual void allow_run() = 0;

  // Gives the guest a synchronous external data abort when it runs next.
  [[nodiscard]] virtual Result<> inject_data_abort() = 0;

  // For reports of what went wrong.
  [[nodiscard]] virtual Result<std::uint64_t> program_counter() const = 0;
};

}  // namespace vmm::kvm
