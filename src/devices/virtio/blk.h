#pragma once

#include <linux/virtio_blk.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "devices/disk_image.h"
#include "devices/event_loop.h"
#include "devices/image_io.h"
#include "devices/io_engine.h"
#include "devices/virtio/device.h"
#include "memory/guest_memory.h"

namespace vmm::virtio {

struct BlkOptions {
  std::string name;    // within the machine
  std::string serial;  // as the guest sees it, up to VIRTIO_BLK_ID_BYTES bytes
};

// A virtio disk (virtio 1.2, 5.2) on a DiskImage.
//
// Requests are taken from the queue in batches and given to the engine with one submission; what is
// done at once (data in the host's page cache) comes back in the same pass, the rest when the
// engine's descriptor wakes the event loop. Where the driver does not know FLUSH, each write is
// durable before it comes back (5.2.6.2).
//
// What fails at the host (ENOSPC, EIO) is an I/O error for the guest, counted, and the first is
// logged. The state between requests is that of the queue, so that nothing but the disk's geometry
// is saved, to be compared.
class Blk final : public VirtioDevice {
 public:
  // Descriptors of the queue, and requests under way: the depth that the engine needs.
  static constexpr std::uint16_t kQueueSize = 256;

  // image, memory and loop must outlive the device. Threads: the event loop's. Error of kind kUsage
  // where the serial number is too long.
  [[nodiscard]] static Result<std::unique_ptr<Blk>> create(const BlkOptions& options,
                                                           DiskImage& image,
                                                           std::unique_ptr<IoEngine> engine,
                                                           GuestMemory& memory, EventLoop& loop);
  ~Blk() override;

  [[nodiscard]] std::string_view name() const override { return options_.name; }
  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::uint64_t offered_features() const override;
  [[nodiscard]] std::span<const QueueLimits> queue_limits() const override;
  [[nodiscard]] std::vector<Counter> counters() const override VMM_EXCLUDES(mutex_);

 protected:
  void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
  void write_config(std::uint64_t, std::span<const std::byte>) override {}
  void activate() override VMM_REQUIRES(mutex_);
  void process(unsigned index) override VMM_REQUIRES(mutex_);
  void reset() override VMM_REQUIRES(mutex_);
  void quiesce() override VMM_REQUIRES(mutex_);
  void resume() override {}
  void save_state(ByteWriter& writer) const override;
  [[nodiscard]] Result<> restore_state(ByteReader& reader) override;

 private:
  struct Request : ImageRequest {
    Chain chain;
    bool in_use = false;
  };
  struct Counts {
    std::uint64_t reads = 0;
    std::uint64_t writes = 0;
    std::uint64_t flushes = 0;
    std::uint64_t discards = 0;
    std::uint64_t write_zeroes = 0;
    std::uint64_t bytes_read = 0;
    std::uint64_t bytes_written = 0;
    std::uint64_t errors = 0;
    std::uint64_t errors_enospc = 0;
    std::uint64_t errors_eio = 0;
  };

  Blk(BlkOptions options, DiskImage& image, std::unique_ptr<IoEngine> engine, GuestMemory& memory);

  void on_io_ready() VMM_EXCLUDES(mutex_);
  [[nodiscard]] Result<> begin(Request& request) VMM_REQUIRES(mutex_);
  void begin_transfer(Request& request, const virtio_blk_outhdr& header) VMM_REQUIRES(mutex_);
  void begin_range(Request& request, std::uint32_t type) VMM_REQUIRES(mutex_);
  void answer_id(Request& request) VMM_REQUIRES(mutex_);
  [[nodiscard]] bool is_within(std::uint64_t sector, std::uint64_t bytes) const;
  void answer(Request& request, std::uint8_t status, std::uint64_t data_written = 0)
      VMM_REQUIRES(mutex_);
  void drop(Request& request) VMM_REQUIRES(mutex_);
  void mark_writable_dirty(const Request& request) VMM_REQUIRES(mutex_);
  void free(Request& request) VMM_REQUIRES(mutex_);
  bool give_back_done() VMM_REQUIRES(mutex_);
  void give_back(Request& request) VMM_REQUIRES(mutex_);
  void count(const Request& request) VMM_REQUIRES(mutex_);

  const BlkOptions options_;
  DiskImage& image_;
  GuestMemory& memory_;
  const virtio_blk_config config_;

  ImageIo io_ VMM_GUARDED_BY(mutex_);
  std::vector<Request> requests_ VMM_GUARDED_BY(mutex_);  // as many as the queue has descriptors
  std::vector<Request*> free_ VMM_GUARDED_BY(mutex_);
  std::vector<ImageRequest*> done_ VMM_GUARDED_BY(mutex_);
  Counts counts_ VMM_GUARDED_BY(mutex_);
  std::unique_ptr<Watch> watch_;
};

}  // namespace vmm::virtio
