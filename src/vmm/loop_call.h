#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <chrono>
#include <future>
#include <memory>
#include <type_traits>
#include <utility>

#include "base/result.h"

namespace vmm {

// Runs function(), which returns a Result, on the event loop and waits for what it returns. Error
// (kFailed) where the loop ends before it comes to it. Threads: any but the loop's. A loop that has
// ended must not run again.
template <typename Function>
[[nodiscard]] std::invoke_result_t<Function> call_on(boost::asio::io_context& loop,
                                                     Function function) {
  using Value = std::invoke_result_t<Function>;
  constexpr std::chrono::milliseconds kPoll{50};
  auto task = std::make_shared<std::packaged_task<Value()>>(std::move(function));
  auto future = task->get_future();
  boost::asio::post(loop, [task] { (*task)(); });
  while (future.wait_for(kPoll) != std::future_status::ready) {
    if (loop.stopped()) return fail(ErrorKind::kFailed, "the guest's process is ending");
  }
  return future.get();
}

}  // namespace vmm
