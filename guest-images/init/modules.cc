#include "init/modules.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <sstream>

#include "base/fd.h"
#include "init/system.h"

namespace vmm::guest {
namespace {

Result<> load(const std::string& path) {
  TRY(const Fd module, open_file(path, O_RDONLY));
  if (syscall(SYS_finit_module, module.get(), "", 0) != 0 && errno != EEXIST) {
    return fail_errno(ErrorKind::kFailed, "load module {}", path);
  }
  return success();
}

}  // namespace

void load_modules(const std::string& list) {
  if (access(list.c_str(), F_OK) != 0) return;
  const auto text = slurp(list);
  if (!text) return say(text.error());
  std::istringstream lines(text.value());
  for (std::string path; std::getline(lines, path);) {
    if (const auto loaded = load(path); !loaded) say(loaded.error());
  }
}

}  // namespace vmm::guest
