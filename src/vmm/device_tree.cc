#include "vmm/device_tree.h"

#include <fmt/format.h>

#include "vmm/fdt_writer.h"
#include "vmm/layout.h"

namespace vmm {
namespace {

// Phandles: arbitrary, unique numbers by which nodes name each other.
constexpr std::uint32_t kGicPhandle = 1;
constexpr std::uint32_t kClockPhandle = 2;
constexpr std::uint32_t kGpioPhandle = 3;

// Interrupt specifiers of the GIC binding (arm,gic-v3.yaml).
constexpr std::uint32_t kSpi = 0;
constexpr std::uint32_t kPpi = 1;
constexpr std::uint32_t kEdgeRising = 1;
constexpr std::uint32_t kLevelHigh = 4;
constexpr std::uint32_t kLevelLow = 8;

constexpr std::uint32_t kUartClockHz = 24'000'000;
constexpr std::uint32_t kKeyPower = 116;  // KEY_POWER, linux/input-event-codes.h

void write_chosen(FdtWriter& fdt, const DeviceTreeConfig& config) {
  fdt.begin_node("chosen");
  fdt.property("bootargs", config.cmdline);
  fdt.property("stdout-path", fmt::format("/pl011@{:x}", layout::kUart.base));
  if (config.initrd) {
    fdt.property_u64s("linux,initrd-start", {config.initrd->start});
    fdt.property_u64s("linux,initrd-end", {config.initrd->end});
  }
  fdt.property("rng-seed", config.rng_seed);
  fdt.property("kaslr-seed", config.kaslr_seed);
  fdt.end_node();
}

void write_cpus(FdtWriter& fdt, const DeviceTreeConfig& config) {
  fdt.begin_node("cpus");
  fdt.property_cells("#address-cells", {2});
  fdt.property_cells("#size-cells", {0});
  for (const auto affinity : config.cpu_affinities) {
    fdt.begin_node(fmt::format("cpu@{:x}", affinity));
    fdt.property("device_type", "cpu");
    fdt.property("compatible", "arm,armv8");
    fdt.property("enable-method", "psci");
    fdt.property_u64s("reg", {affinity});
    fdt.end_node();
  }
  fdt.end_node();
  fdt.begin_node("psci");
  fdt.property_strings("compatible", {"arm,psci-1.0", "arm,psci-0.2"});
  fdt.property("method", "hvc");
  fdt.end_node();
}

void write_gic(FdtWriter& fdt, std::size_t vcpus) {
  fdt.begin_node(fmt::format("interrupt-controller@{:x}", layout::kGicDistributor.base));
  fdt.property("compatible", "arm,gic-v3");
  fdt.property_cells("#interrupt-cells", {3});
  fdt.property("interrupt-controller");
  fdt.property_u64s("reg", {layout::kGicDistributor.base, layout::kGicDistributor.size,
                            layout::kGicRedistributors.base, vcpus * layout::kRedistributorSize});
  fdt.property_cells("phandle", {kGicPhandle});
  fdt.end_node();
}

void write_timer(FdtWriter& fdt) {
  fdt.begin_node("timer");
  fdt.property("compatible", "arm,armv8-timer");
  fdt.property("always-on");
  fdt.property_cells("interrupts", {kPpi, layout::kTimerSecurePpi, kLevelLow,    //
                                    kPpi, layout::kTimerPhysicalPpi, kLevelLow,  //
                                    kPpi, layout::kTimerVirtualPpi, kLevelLow,   //
                                    kPpi, layout::kTimerHypervisorPpi, kLevelLow});
  fdt.end_node();
}

// Begins the node of a PrimeCell peripheral; the caller ends it.
void begin_primecell(FdtWriter& fdt, std::string_view name, std::string_view compatible,
                     const layout::Range& range, unsigned spi) {
  fdt.begin_node(fmt::format("{}@{:x}", name, range.base));
  fdt.property_strings("compatible", {compatible, "arm,primecell"});
  fdt.property_u64s("reg", {range.base, range.size});
  fdt.property_cells("interrupts", {kSpi, spi, kLevelHigh});
}

void write_peripherals(FdtWriter& fdt) {
  fdt.begin_node("apb-pclk");
  fdt.property("compatible", "fixed-clock");
  fdt.property_cells("#clock-cells", {0});
  fdt.property_cells("clock-frequency", {kUartClockHz});
  fdt.property("clock-output-names", "clk24mhz");
  fdt.property_cells("phandle", {kClockPhandle});
  fdt.end_node();

  begin_primecell(fdt, "pl011", "arm,pl011", layout::kUart, layout::kUartSpi);
  fdt.property_cells("clocks", {kClockPhandle, kClockPhandle});
  fdt.property_strings("clock-names", {"uartclk", "apb_pclk"});
  fdt.end_node();

  begin_primecell(fdt, "pl031", "arm,pl031", layout::kRtc, layout::kRtcSpi);
  fdt.property_cells("clocks", {kClockPhandle});
  fdt.property("clock-names", "apb_pclk");
  fdt.end_node();

  begin_primecell(fdt, "pl061", "arm,pl061", layout::kGpio, layout::kGpioSpi);
  fdt.property_cells("clocks", {kClockPhandle});
  fdt.property("clock-names", "apb_pclk");
  fdt.property("gpio-controller");
  fdt.property_cells("#gpio-cells", {2});
  fdt.property("interrupt-controller");
  fdt.property_cells("#interrupt-cells", {2});
  fdt.property_cells("phandle", {kGpioPhandle});
  fdt.end_node();

  fdt.begin_node("gpio-keys");
  fdt.property("compatible", "gpio-keys");
  fdt.begin_node("poweroff");
  fdt.property("label", "GPIO Key Poweroff");
  fdt.property_cells("linux,code", {kKeyPower});
  fdt.property_cells("gpios", {kGpioPhandle, layout::kPowerKeyLine, 0});
  fdt.end_node();
  fdt.end_node();
}

// In the order of the slots, so that Linux numbers disks and networks as the configuration does.
void write_virtio(FdtWriter& fdt, unsigned slots) {
  for (unsigned slot = 0; slot < slots; ++slot) {
    const std::uint64_t base = layout::kVirtio.base + slot * layout::kVirtioWindow;
    fdt.begin_node(fmt::format("virtio_mmio@{:x}", base));
    fdt.property("compatible", "virtio,mmio");
    fdt.property_u64s("reg", {base, layout::kVirtioWindow});
    fdt.property_cells("interrupts", {kSpi, layout::kVirtioSpi + slot, kEdgeRising});
    fdt.property("dma-coherent");
    fdt.end_node();
  }
}

}  // namespace

Result<std::vector<std::byte>> build_device_tree(const DeviceTreeConfig& config) {
  FdtWriter fdt;
  fdt.begin_node("");
  fdt.property_cells("#address-cells", {2});
  fdt.property_cells("#size-cells", {2});
  fdt.property("compatible", "linux,dummy-virt");
  fdt.property("model", "vmm,virt");
  fdt.property_cells("interrupt-parent", {kGicPhandle});
  fdt.property("dma-coherent");

  write_chosen(fdt, config);
  fdt.begin_node(fmt::format("memory@{:x}", layout::kRamBase));
  fdt.property("device_type", "memory");
  fdt.property_u64s("reg", {layout::kRamBase, config.memory_size});
  fdt.end_node();
  write_cpus(fdt, config);
  write_gic(fdt, config.cpu_affinities.size());
  write_timer(fdt);
  if (config.pmu) {
    fdt.begin_node("pmu");
    fdt.property("compatible", "arm,armv8-pmuv3");
    fdt.property_cells("interrupts", {kPpi, layout::kPmuPpi, kLevelHigh});
    fdt.end_node();
  }
  write_peripherals(fdt);
  write_virtio(fdt, config.virtio_slots);
  fdt.end_node();
  return fdt.finish();
}

}  // namespace vmm
