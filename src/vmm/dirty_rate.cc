#include "vmm/dirty_rate.h"

#include <boost/asio/post.hpp>
#include <boost/json/array.hpp>

#include "vmm/rpc_params.h"

namespace vmm {
namespace json = boost::json;

namespace {

json::object to_json(const DirtyRate& rate, const DirtyRateOptions& options) {
  std::uint64_t pages = 0;
  json::array intervals;
  for (const auto interval : rate.intervals) {
    intervals.push_back(json::value(interval));
    pages += interval;
  }
  const double seconds = std::chrono::duration<double>(rate.measured).count();
  const double pages_per_s = seconds > 0 ? static_cast<double>(pages) / seconds : 0;
  return {{"mode", to_string(rate.mode)},
          {"period_ms", options.period.count()},
          {"interval_ms", options.interval.count()},
          {"begun", std::chrono::duration<double>(rate.begun.time_since_epoch()).count()},
          {"measured_ms", seconds * 1000},
          {"intervals", std::move(intervals)},
          {"pages_per_s", pages_per_s},
          {"bytes_per_s", pages_per_s * static_cast<double>(kPageSize)},
          {"unique_pages", rate.unique_pages}};
}

}  // namespace

DirtyRateMeter::DirtyRateMeter(boost::asio::io_context& loop, Guest& guest,
                               OutgoingMigration& migration)
    : loop_(loop), guest_(guest), migration_(migration) {
  // A migration does not wait for a measurement.
  migration_.set_before_start([this] { stop(); });
}

DirtyRateMeter::~DirtyRateMeter() = default;

void DirtyRateMeter::add_methods(ControlServer& server) {
  server.add_method("dirty_rate.start",
                    [this](const json::object& params) { return start(params); });
  server.add_method("dirty_rate.get", [this](const json::object&) { return get(); });
  server.add_method("dirty_rate.stop", [this](const json::object&) -> Result<json::value> {
    stop();
    return json::value(json::object());
  });
}

void DirtyRateMeter::stop() {
  if (!sampler_) return;
  last_ = sampler_->finish();
  sampler_.reset();
  guest_.end_task();
}

Result<json::value> DirtyRateMeter::start(const json::object& params) {
  DirtyRateOptions options;
  TRY(const auto period, optional_ms(params, "period_ms"));
  TRY(const auto interval, optional_ms(params, "interval_ms"));
  TRY(options.mode, optional_log_mode(params));
  options.period = period.value_or(options.period);
  options.interval = interval.value_or(std::min(options.interval, options.period));
  TRY(check(options));
  if (migration_.active()) return json::value{{"migration", migration_.progress_json()}};
  TRY(auto* machine, guest_.begin_task("measuring its dirty rate", [this] {
    if (sampler_) sampler_->stop();
  }));
  if (options.mode && !machine->dirty_log().offers(*options.mode)) {
    guest_.end_task();
    return fail(ErrorKind::kHost,
                "this host's KVM has no hardware dirty logging; --dirty-log auto does without");
  }
  options_ = options;
  last_.reset();
  const auto on_end = [this, generation = ++generation_] {
    boost::asio::post(loop_, [this, generation] {
      if (generation == generation_) stop();
    });
  };
  sampler_ =
      std::make_unique<DirtyRateSampler>(machine->dirty_log(), machine->memory(), options, on_end);
  return json::value(json::object());
}

Result<json::value> DirtyRateMeter::get() {
  if (migration_.active()) return json::value{{"migration", migration_.progress_json()}};
  if (sampler_) {
    sampler_->keep_alive();
    TRY(const auto rate, sampler_->result());
    auto reply = to_json(rate, options_);
    reply["done"] = false;
    return json::value(std::move(reply));
  }
  if (!last_) return fail(ErrorKind::kFailed, "no dirty rate has been measured");
  if (!*last_) return fail(last_->error());
  auto reply = to_json(last_->value(), options_);
  reply["done"] = true;
  return json::value(std::move(reply));
}

}  // namespace vmm
