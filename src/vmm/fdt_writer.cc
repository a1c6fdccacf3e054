#include "vmm/fdt_writer.h"

extern "C" {
#include <libfdt.h>
}

namespace vmm {
namespace {

// Room for 16 CPUs and all devices several times over; the blob is cut to size at the end.
constexpr int kCapacity = 64 * 1024;

}  // namespace

FdtWriter::FdtWriter() : blob_(kCapacity) {
  note(fdt_create(blob_.data(), kCapacity));
  note(fdt_finish_reservemap(blob_.data()));
}

void FdtWriter::note(int status) {
  if (error_ == 0 && status < 0) error_ = status;
}

void FdtWriter::begin_node(const std::string& name) {
  note(fdt_begin_node(blob_.data(), name.c_str()));
  ++depth_;
}

void FdtWriter::end_node() {
  note(fdt_end_node(blob_.data()));
  --depth_;
}

void FdtWriter::property(const char* name) {
  note(fdt_property(blob_.data(), name, nullptr, 0));
}

void FdtWriter::property(const char* name, std::string_view text) {
  property_strings(name, {text});
}

void FdtWriter::property(const char* name, std::span<const std::byte> value) {
  note(fdt_property(blob_.data(), name, value.data(), static_cast<int>(value.size())));
}

void FdtWriter::property_strings(const char* name, std::initializer_list<std::string_view> texts) {
  std::string joined;
  for (const auto text : texts) {
    joined += text;
    joined += '\0';
  }
  property(name, std::as_bytes(std::span(joined)));
}

void FdtWriter::property_cells(const char* name, std::initializer_list<std::uint32_t> cells) {
  property_cells(name, std::span(cells.begin(), cells.size()));
}

void FdtWriter::property_cells(const char* name, std::span<const std::uint32_t> cells) {
  std::vector<std::uint32_t> big_endian;
  big_endian.reserve(cells.size());
  for (const auto cell : cells) big_endian.push_back(cpu_to_fdt32(cell));
  property(name, std::as_bytes(std::span(big_endian)));
}

void FdtWriter::property_u64s(const char* name, std::initializer_list<std::uint64_t> values) {
  std::vector<std::uint32_t> cells;
  for (const auto value : values) {
    cells.push_back(static_cast<std::uint32_t>(value >> 32));
    cells.push_back(static_cast<std::uint32_t>(value));
  }
  property_cells(name, cells);
}

Result<std::vector<std::byte>> FdtWriter::finish() {
  note(fdt_finish(blob_.data()));
  if (depth_ != 0) note(-FDT_ERR_BADSTRUCTURE);  // libfdt does not look
  if (error_ != 0) {
    return fail(ErrorKind::kFailed, "cannot build the device tree: {}", fdt_strerror(error_));
  }
  blob_.resize(fdt_totalsize(blob_.data()));
  return std::move(blob_);
}

}  // namespace vmm
