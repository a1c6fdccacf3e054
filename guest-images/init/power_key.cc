#include "init/power_key.h"

#include <fcntl.h>
#include <linux/input.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <string>

#include "init/system.h"

namespace vmm::guest {
namespace {

constexpr const char* kFolder = "/dev/input";

}  // namespace

PowerKey::PowerKey() {
  mkdir(kFolder, 0755);  // so that it can be watched before the first device appears
  watch_ = Fd(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!watch_.valid() || inotify_add_watch(watch_.get(), kFolder, IN_CREATE) < 0) {
    say(system_error(ErrorKind::kFailed, "watch {}", kFolder));
  }
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder, error)) {
    open_device(entry.path().filename().string());
  }
}

void PowerKey::open_device(const std::string& name) {
  if (!name.starts_with("event")) return;
  auto device = open_file(fmt::format("{}/{}", kFolder, name), O_RDONLY | O_NONBLOCK);
  if (!device) return say(device.error());
  devices_.push_back(std::move(device).value());
}

void PowerKey::add_to(std::vector<pollfd>& polled) const {
  polled.push_back({watch_.get(), POLLIN, 0});
  for (const Fd& device : devices_) polled.push_back({device.get(), POLLIN, 0});
}

void PowerKey::take_new_devices() {
  alignas(inotify_event) std::array<char, 4096> buffer{};
  const ssize_t length = read(watch_.get(), buffer.data(), buffer.size());
  for (ssize_t at = 0; at < length;) {
    const auto* event = reinterpret_cast<const inotify_event*>(&buffer[static_cast<size_t>(at)]);
    if (event->len > 0) open_device(event->name);
    at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
  }
}

bool PowerKey::pressed() {
  take_new_devices();
  bool found = false;
  for (const Fd& device : devices_) {
    input_event event{};
    while (read(device.get(), &event, sizeof(event)) == sizeof(event)) {
      found |= event.type == EV_KEY && event.code == KEY_POWER && event.value == 1;
    }
  }
  return found;
}

}  // namespace vmm::guest
