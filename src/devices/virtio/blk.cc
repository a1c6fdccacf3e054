#include "devices/virtio/blk.h"

#include <linux/virtio_ids.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <system_error>
#include <utility>

#include "base/checked.h"
#include "base/log.h"
#include "devices/device_state.h"

namespace vmm::virtio {
namespace {

constexpr std::uint32_t kStateVersion = 1;

// Header and status take a descriptor each. The two limits together bound a request.
constexpr std::uint32_t kMaxSegments = Blk::kQueueSize - 2;
constexpr std::uint32_t kMaxSegmentBytes = 1 << 20;
constexpr std::uint64_t kMaxRequestBytes = std::uint64_t{kMaxSegments} * kMaxSegmentBytes +
                                           sizeof(virtio_blk_outhdr) + sizeof(std::uint8_t);
constexpr std::array<QueueLimits, 1> kQueues{{{Blk::kQueueSize, kMaxRequestBytes}}};

// What file systems and disks of today do well, whatever the block size; the same on every host, as
// it is the guest's view.
constexpr std::uint32_t kPhysicalBlock = 4096;
// A reset waits for what is under way, so neither may take long; writing zeros may mean just that.
constexpr std::uint32_t kMaxDiscardBytes = 1 << 30;
constexpr std::uint32_t kMaxWriteZeroesBytes = 32 << 20;

constexpr std::uint32_t sectors(std::uint32_t bytes) {
  return bytes / static_cast<std::uint32_t>(kSectorSize);
}

virtio_blk_config make_config(const DiskImage& image) {
  const std::uint32_t block = image.block_size();
  const std::uint32_t physical = std::max(block, kPhysicalBlock);
  virtio_blk_config config{};
  config.capacity = image.size() / kSectorSize;
  config.size_max = kMaxSegmentBytes;
  config.seg_max = kMaxSegments;
  config.blk_size = block;
  config.physical_block_exp = static_cast<std::uint8_t>(std::countr_zero(physical / block));
  config.min_io_size = static_cast<std::uint16_t>(physical / block);
  config.max_discard_sectors = sectors(kMaxDiscardBytes);
  config.max_discard_seg = 1;
  config.discard_sector_alignment = sectors(physical);
  config.max_write_zeroes_sectors = sectors(kMaxWriteZeroesBytes);
  config.max_write_zeroes_seg = 1;
  config.write_zeroes_may_unmap = 1;
  return config;
}

// Copies the start of a request's readable part to `out`; the rest of that part goes to `rest`.
// False where it is too short.
bool take_front(std::span<const iovec> parts, std::span<std::byte> out, std::vector<iovec>& rest) {
  rest.clear();
  for (const iovec& part : parts) {
    const std::size_t bytes = std::min(part.iov_len, out.size());
    if (bytes != 0) std::memcpy(out.data(), part.iov_base, bytes);
    out = out.subspan(bytes);
    if (bytes != part.iov_len) {
      rest.push_back({static_cast<std::byte*>(part.iov_base) + bytes, part.iov_len - bytes});
    }
  }
  return out.empty();
}

}  // namespace

Blk::Blk(BlkOptions options, DiskImage& image, std::unique_ptr<IoEngine> engine,
         GuestMemory& memory)
    : options_(std::move(options)),
      image_(image),
      memory_(memory),
      config_(make_config(image)),
      io_(image, std::move(engine)) {}

Result<std::unique_ptr<Blk>> Blk::create(const BlkOptions& options, DiskImage& image,
                                         std::unique_ptr<IoEngine> engine, GuestMemory& memory,
                                         EventLoop& loop) {
  if (options.serial.size() > VIRTIO_BLK_ID_BYTES) {
    return fail(ErrorKind::kUsage, "the serial number {} of {} has more than {} bytes",
                options.serial, options.name, VIRTIO_BLK_ID_BYTES);
  }
  std::unique_ptr<Blk> device(new Blk(options, image, std::move(engine), memory));
  const MutexLock lock(device->mutex_);
  device->watch_ =
      loop.watch_readable(device->io_.ready_fd(), [self = device.get()] { self->on_io_ready(); });
  return device;
}

Blk::~Blk() {
  const MutexLock lock(mutex_);
  io_.abandon();
}

std::uint32_t Blk::type() const {
  return VIRTIO_ID_BLOCK;
}

std::uint64_t Blk::offered_features() const {
  constexpr auto bit = [](unsigned number) { return std::uint64_t{1} << number; };
  const std::uint64_t always = bit(VIRTIO_BLK_F_SIZE_MAX) | bit(VIRTIO_BLK_F_SEG_MAX) |
                               bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_TOPOLOGY) |
                               bit(VIRTIO_BLK_F_FLUSH);
  if (image_.read_only()) return always | bit(VIRTIO_BLK_F_RO);
  return always | bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES);
}

std::span<const QueueLimits> Blk::queue_limits() const {
  return kQueues;
}

std::vector<Counter> Blk::counters() const {
  const MutexLock lock(mutex_);
  return {{"reads", counts_.reads},
          {"writes", counts_.writes},
          {"flushes", counts_.flushes},
          {"discards", counts_.discards},
          {"write_zeroes", counts_.write_zeroes},
          {"bytes_read", counts_.bytes_read},
          {"bytes_written", counts_.bytes_written},
          {"errors", counts_.errors},
          {"errors_enospc", counts_.errors_enospc},
          {"errors_eio", counts_.errors_eio}};
}

void Blk::read_config(std::uint64_t offset, std::span<std::byte> data) const {
  std::ranges::fill(data, std::byte{0});
  if (offset >= sizeof config_) return;
  const auto bytes = std::as_bytes(std::span(&config_, 1)).subspan(offset);
  std::memcpy(data.data(), bytes.data(), std::min(bytes.size(), data.size()));
}

// --- From the queue to the image ---

void Blk::activate() {
  const Queue* taken = queue(0);
  if (taken == nullptr) return;
  requests_ = std::vector<Request>(taken->size());
  for (Request& request : requests_) free_.push_back(&request);
}

void Blk::process(unsigned index) {
  Queue& taken = *queue(index);
  std::size_t budget = requests_.size();
  Result<> begun = success();
  do {
    taken.disable_kicks();
    while (budget != 0 && !free_.empty()) {
      Request& request = *free_.back();
      auto popped = taken.pop(request.chain);
      if (!popped) begun = fail(std::move(popped).error());
      if (!popped || !popped.value()) break;
      free_.pop_back();
      request.in_use = true;
      --budget;
      begun = begin(request);
      if (!begun) break;
    }
    io_.submit();
    give_back_done();
    if (!begun) {
      publish(taken);
      return transport().needs_reset(begun.error());
    }
    // With as many requests under way as the queue holds, the driver cannot have more.
    if (!taken.enable_kicks() || free_.empty()) break;
    if (budget == 0) transport().process_again(index);
  } while (budget != 0);
  publish(taken);
}

// Starts a request or answers it right away. Error where there is no header, or no room for an
// answer.
Result<> Blk::begin(Request& request) {
  virtio_blk_outhdr header{};
  if (!take_front(request.chain.readable(), std::as_writable_bytes(std::span(&header, 1)),
                  request.parts) ||
      request.chain.writable_bytes() == 0) {
    auto error = make_error(ErrorKind::kFailed, "a request of {} readable and {} writable bytes",
                            request.chain.readable_bytes(), request.chain.writable_bytes());
    free(request);
    return fail(std::move(error));
  }
  switch (header.type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
      begin_transfer(request, header);
      break;
    case VIRTIO_BLK_T_FLUSH:
      request.operation = ImageRequest::Operation::kFlush;
      io_.start(request);
      break;
    case VIRTIO_BLK_T_GET_ID:
      answer_id(request);
      break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
      begin_range(request, header.type);
      break;
    default:
      answer(request, VIRTIO_BLK_S_UNSUPP);
      break;
  }
  return success();
}

// Whether bytes from a sector on are whole blocks of the disk.
bool Blk::is_within(std::uint64_t sector, std::uint64_t bytes) const {
  const auto start = checked_mul(sector, kSectorSize);
  if (!start || *start > image_.size() || bytes > image_.size() - *start) return false;
  const std::uint64_t block = config_.blk_size;
  return *start % block == 0 && bytes % block == 0;
}

void Blk::begin_transfer(Request& request, const virtio_blk_outhdr& header) {
  const bool write = header.type == VIRTIO_BLK_T_OUT;
  const Chain& chain = request.chain;
  request.size = write ? chain.readable_bytes() - sizeof header
                       : chain.writable_bytes() - sizeof(std::uint8_t);
  if (!is_within(header.sector, request.size) || (write && image_.read_only())) {
    return answer(request, VIRTIO_BLK_S_IOERR);
  }
  request.start = header.sector * kSectorSize;
  if (write) {
    request.operation = ImageRequest::Operation::kWrite;
    request.durable = !has_feature(VIRTIO_BLK_F_FLUSH);
  } else {
    request.operation = ImageRequest::Operation::kRead;
    request.parts.assign(chain.writable().begin(), chain.writable().end());
    if (--request.parts.back().iov_len == 0) request.parts.pop_back();
  }
  io_.start(request);
}

void Blk::begin_range(Request& request, std::uint32_t type) {
  const bool discard = type == VIRTIO_BLK_T_DISCARD;
  const unsigned feature = discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES;
  if (!has_feature(feature)) return answer(request, VIRTIO_BLK_S_UNSUPP);
  // One range is all that is offered.
  virtio_blk_outhdr header{};
  virtio_blk_discard_write_zeroes range{};
  std::array<std::byte, sizeof header + sizeof range> bytes{};
  if (request.chain.readable_bytes() != bytes.size() ||
      !take_front(request.chain.readable(), bytes, request.parts)) {
    return answer(request, VIRTIO_BLK_S_IOERR);
  }
  std::memcpy(&range, bytes.data() + sizeof header, sizeof range);
  const std::uint32_t known_flags = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
  if ((range.flags & ~known_flags) != 0) return answer(request, VIRTIO_BLK_S_UNSUPP);
  const std::uint32_t most =
      discard ? config_.max_discard_sectors : config_.max_write_zeroes_sectors;
  const std::uint64_t size = std::uint64_t{range.num_sectors} * kSectorSize;
  if (range.num_sectors > most || !is_within(range.sector, size)) {
    return answer(request, VIRTIO_BLK_S_IOERR);
  }
  request.operation =
      discard ? ImageRequest::Operation::kDiscard : ImageRequest::Operation::kWriteZeroes;
  request.start = range.sector * kSectorSize;
  request.size = size;
  request.unmap = (range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0;
  request.durable = !has_feature(VIRTIO_BLK_F_FLUSH);
  io_.start(request);
}

void Blk::answer_id(Request& request) {
  std::array<char, VIRTIO_BLK_ID_BYTES> id{};
  std::ranges::copy(options_.serial, id.begin());
  std::size_t done = 0;
  const std::uint64_t room =
      std::min<std::uint64_t>(id.size(), request.chain.writable_bytes() - sizeof(std::uint8_t));
  for (const iovec& part : request.chain.writable()) {
    const std::size_t bytes = std::min<std::size_t>(part.iov_len, room - done);
    std::memcpy(part.iov_base, id.data() + done, bytes);
    done += bytes;
  }
  answer(request, VIRTIO_BLK_S_OK, done);
}

// --- From the image back to the queue ---

void Blk::on_io_ready() {
  const MutexLock lock(mutex_);
  if (give_back_done() && active()) publish(*queue(0));
}

// False where nothing was done.
bool Blk::give_back_done() {
  done_.clear();
  io_.reap(done_);
  for (ImageRequest* request : done_) give_back(static_cast<Request&>(*request));
  return !done_.empty();
}

void Blk::give_back(Request& request) {
  count(request);
  // After needs_reset() the queue is taboo.
  if (!active()) return drop(request);
  if (request.error != 0) return answer(request, VIRTIO_BLK_S_IOERR);
  const bool read = request.operation == ImageRequest::Operation::kRead;
  answer(request, VIRTIO_BLK_S_OK, read ? request.size : 0);
}

// The status is the last byte that the device writes; data_written bytes of data are at the start.
void Blk::answer(Request& request, std::uint8_t status, std::uint64_t data_written) {
  const Chain& chain = request.chain;
  const iovec& last = chain.writable().back();
  static_cast<std::byte*>(last.iov_base)[last.iov_len - 1] = std::byte{status};
  std::uint64_t written = data_written;
  if (data_written + sizeof status == chain.writable_bytes()) {
    written = chain.writable_bytes();
  } else {
    // Data that came before an error is there, too.
    mark_writable_dirty(request);
  }
  queue(0)->push(chain, static_cast<std::uint32_t>(written));
  free(request);
}

// Forgets a request whose data may have arrived in part.
void Blk::drop(Request& request) {
  mark_writable_dirty(request);
  free(request);
}

void Blk::mark_writable_dirty(const Request& request) {
  for (const iovec& part : request.chain.writable()) {
    memory_.mark_dirty(std::span(static_cast<const std::byte*>(part.iov_base), part.iov_len));
  }
}

void Blk::free(Request& request) {
  request.in_use = false;
  free_.push_back(&request);
}

void Blk::count(const Request& request) {
  const bool good = request.error == 0;
  switch (request.operation) {
    case ImageRequest::Operation::kRead:
      ++counts_.reads;
      if (good) counts_.bytes_read += request.size;
      break;
    case ImageRequest::Operation::kWrite:
      ++counts_.writes;
      if (good) counts_.bytes_written += request.size;
      break;
    case ImageRequest::Operation::kFlush:
      ++counts_.flushes;
      break;
    case ImageRequest::Operation::kDiscard:
      ++counts_.discards;
      break;
    case ImageRequest::Operation::kWriteZeroes:
      ++counts_.write_zeroes;
      break;
  }
  if (good) return;
  if (counts_.errors++ == 0) {
    log(LogLevel::kWarning, "{}: I/O error on {}: {}; further ones are only counted", name(),
        image_.path(), std::generic_category().message(request.error));
  }
  if (request.error == ENOSPC) ++counts_.errors_enospc;
  if (request.error == EIO) ++counts_.errors_eio;
}

// --- Stopping, and saved state ---

void Blk::reset() {
  io_.abandon();
  for (Request& request : requests_) {
    if (request.in_use) mark_writable_dirty(request);
  }
  free_.clear();
  requests_.clear();
}

void Blk::quiesce() {
  while (io_.under_way() != 0) {
    io_.wait();
    give_back_done();
  }
  if (active() && queue(0) != nullptr) publish(*queue(0));
}

void Blk::save_state(ByteWriter& writer) const {
  writer.put(kStateVersion);
  writer.put(std::uint64_t{config_.capacity});
  writer.put(std::uint32_t{config_.blk_size});
}

Result<> Blk::restore_state(ByteReader& reader) {
  TRY(expect_state_version(reader, name(), kStateVersion));
  TRY(const auto capacity, reader.get<std::uint64_t>());
  TRY(const auto block, reader.get<std::uint32_t>());
  TRY(reader.expect_end());
  if (capacity != config_.capacity) {
    return fail(ErrorKind::kFailed, "{} has {} sectors, and {} had {} when it was saved",
                image_.path(), std::uint64_t{config_.capacity}, name(), capacity);
  }
  if (block != config_.blk_size) {
    return fail(ErrorKind::kFailed, "{} has blocks of {} bytes, and {} had {} when it was saved",
                image_.path(), std::uint32_t{config_.blk_size}, name(), block);
  }
  return success();
}

}  // namespace vmm::virtio
