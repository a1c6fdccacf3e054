#pragma once

#include <mutex>

// Clang's thread-safety analysis (-Wthread-safety): which mutex guards which member, and which
// functions want it held or not held. Other compilers see nothing.
#if defined(__clang__)
#define VMM_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define VMM_THREAD_ATTRIBUTE(x)
#endif

#define VMM_CAPABILITY(name) VMM_THREAD_ATTRIBUTE(capability(name))
#define VMM_SCOPED_CAPABILITY VMM_THREAD_ATTRIBUTE(scoped_lockable)
#define VMM_GUARDED_BY(mutex) VMM_THREAD_ATTRIBUTE(guarded_by(mutex))
#define VMM_PT_GUARDED_BY(mutex) VMM_THREAD_ATTRIBUTE(pt_guarded_by(mutex))
#define VMM_REQUIRES(...) VMM_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define VMM_EXCLUDES(...) VMM_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define VMM_ACQUIRE(...) VMM_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define VMM_RELEASE(...) VMM_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))
#define VMM_TRY_ACQUIRE(...) VMM_THREAD_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
#define VMM_NO_THREAD_SAFETY_ANALYSIS VMM_THREAD_ATTRIBUTE(no_thread_safety_analysis)

namespace vmm {

// std::mutex with annotations, which libstdc++'s lacks. It meets BasicLockable, so that
// std::condition_variable_any can wait with it.
class VMM_CAPABILITY("mutex") Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() VMM_ACQUIRE() { mutex_.lock(); }
  void unlock() VMM_RELEASE() { mutex_.unlock(); }
  [[nodiscard]] bool try_lock() VMM_TRY_ACQUIRE(true) { return mutex_.try_lock(); }

 private:
  std::mutex mutex_;
};

// Holds a Mutex for the length of a scope.
class VMM_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) VMM_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() VMM_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

}  // namespace vmm
