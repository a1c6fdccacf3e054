#pragma once

namespace vmm {

// Makes each madvise() with one advice fail, in all of the program's threads, while it lives. One
// object at a time.
class MadviseFault {
 public:
  MadviseFault(int advice, int error);
  MadviseFault(const MadviseFault&) = delete;
  MadviseFault& operator=(const MadviseFault&) = delete;
  ~MadviseFault();
};

}  // namespace vmm
