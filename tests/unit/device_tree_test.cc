#include "vmm/device_tree.h"

#include <set>

#include "fdt_support.h"
#include "vmm/fdt_writer.h"
#include "vmm/layout.h"
#include "vmm_support.h"

namespace vmm {
namespace {

using ::testing::ElementsAre;

DeviceTreeConfig small() {
  DeviceTreeConfig config;
  config.memory_size = 1ULL << 33;
  config.cpu_affinities = {0};
  return config;
}

FdtReader build(const DeviceTreeConfig& config) {
  auto blob = build_device_tree(config);
  EXPECT_TRUE(blob) << blob.error().message();
  return FdtReader(blob.value());
}

TEST(DeviceTreeTest, TheRootNamesTheInterruptController) {
  const auto fdt = build(small());
  EXPECT_THAT(fdt.cells("/", "#address-cells"), ElementsAre(2));
  EXPECT_THAT(fdt.cells("/", "#size-cells"), ElementsAre(2));
  EXPECT_EQ(fdt.text("/", "compatible"), "linux,dummy-virt");
  EXPECT_TRUE(fdt.has("/", "dma-coherent"));
  EXPECT_EQ(fdt.by_phandle(fdt.cells("/", "interrupt-parent")[0]), "/interrupt-controller@8000000");
}

TEST(DeviceTreeTest, MemoryIsAllOfRam) {
  const auto fdt = build(small());
  EXPECT_EQ(fdt.text("/memory@40000000", "device_type"), "memory");
  EXPECT_THAT(fdt.u64s("/memory@40000000", "reg"), ElementsAre(0x4000'0000, 1ULL << 33));
}

TEST(DeviceTreeTest, EachCpuIsNamedByItsAffinityAndStartedByPsci) {
  auto config = small();
  config.cpu_affinities = {0, 1, 0x100, 0x1'0000'0000};
  const auto fdt = build(config);
  EXPECT_THAT(fdt.cells("/cpus", "#address-cells"), ElementsAre(2));
  EXPECT_THAT(fdt.cells("/cpus", "#size-cells"), ElementsAre(0));
  for (const auto affinity : config.cpu_affinities) {
    const auto path = fmt::format("/cpus/cpu@{:x}", affinity);
    EXPECT_THAT(fdt.u64s(path, "reg"), ElementsAre(affinity));
    EXPECT_EQ(fdt.text(path, "device_type"), "cpu");
    EXPECT_EQ(fdt.text(path, "enable-method"), "psci");
  }
  EXPECT_FALSE(fdt.has_node("/cpus/cpu@2"));
  EXPECT_EQ(fdt.text("/psci", "method"), "hvc");
  EXPECT_EQ(fdt.raw("/psci", "compatible"), std::string("arm,psci-1.0\0arm,psci-0.2\0", 26));
}

TEST(DeviceTreeTest, TheGicHasARedistributorForEachCpu) {
  for (const std::size_t cpus : {1U, 3U, 16U}) {
    auto config = small();
    config.cpu_affinities.resize(cpus);
    for (std::size_t i = 0; i < cpus; ++i) config.cpu_affinities[i] = i;
    const auto fdt = build(config);
    const auto* path = "/interrupt-controller@8000000";
    EXPECT_EQ(fdt.text(path, "compatible"), "arm,gic-v3");
    EXPECT_TRUE(fdt.has(path, "interrupt-controller"));
    EXPECT_THAT(fdt.cells(path, "#interrupt-cells"), ElementsAre(3));
    EXPECT_THAT(fdt.u64s(path, "reg"),
                ElementsAre(0x800'0000, 0x1'0000, 0x80a'0000, cpus * 0x2'0000));
  }
}

TEST(DeviceTreeTest, TheTimerRaisesKvmsInterrupts) {
  const auto fdt = build(small());
  EXPECT_EQ(fdt.text("/timer", "compatible"), "arm,armv8-timer");
  // Secure, physical, virtual, hypervisor: PPIs 13, 14, 11, 10, active low.
  EXPECT_THAT(fdt.cells("/timer", "interrupts"),
              ElementsAre(1, 13, 8, 1, 14, 8, 1, 11, 8, 1, 10, 8));
}

TEST(DeviceTreeTest, ThePmuIsThereWhereAskedForOnly) {
  EXPECT_FALSE(build(small()).has_node("/pmu"));
  auto config = small();
  config.pmu = true;
  const auto fdt = build(config);
  EXPECT_EQ(fdt.text("/pmu", "compatible"), "arm,armv8-pmuv3");
  EXPECT_THAT(fdt.cells("/pmu", "interrupts"), ElementsAre(1, 7, 4));
}

TEST(DeviceTreeTest, PrimeCellsHaveWindowInterruptAndClocks) {
  struct Case {
    const char* path;
    std::string compatible;
    std::uint64_t base;
    std::uint32_t spi;
    std::size_t clocks;
  };
  const auto fdt = build(small());
  for (const auto& [path, compatible, base, spi, clocks] :
       {Case{"/pl011@9000000", "arm,pl011", 0x900'0000, 1, 2},
        Case{"/pl031@9010000", "arm,pl031", 0x901'0000, 2, 1},
        Case{"/pl061@9030000", "arm,pl061", 0x903'0000, 7, 1}}) {
    EXPECT_EQ(fdt.raw(path, "compatible"), compatible + '\0' + "arm,primecell" + '\0');
    EXPECT_THAT(fdt.u64s(path, "reg"), ElementsAre(base, 0x1000));
    EXPECT_THAT(fdt.cells(path, "interrupts"), ElementsAre(0, spi, 4));
    const auto phandles = fdt.cells(path, "clocks");
    EXPECT_EQ(phandles.size(), clocks);
    for (const auto phandle : phandles) EXPECT_EQ(fdt.by_phandle(phandle), "/apb-pclk");
  }
  EXPECT_EQ(fdt.text("/apb-pclk", "compatible"), "fixed-clock");
  EXPECT_TRUE(fdt.has("/pl061@9030000", "gpio-controller"));
}

TEST(DeviceTreeTest, ThePowerKeyIsAGpioLine) {
  const auto fdt = build(small());
  EXPECT_EQ(fdt.text("/gpio-keys", "compatible"), "gpio-keys");
  EXPECT_THAT(fdt.cells("/gpio-keys/poweroff", "linux,code"), ElementsAre(116));
  const auto gpios = fdt.cells("/gpio-keys/poweroff", "gpios");
  ASSERT_EQ(gpios.size(), 3U);
  EXPECT_EQ(fdt.by_phandle(gpios[0]), "/pl061@9030000");
  EXPECT_EQ(gpios[1], layout::kPowerKeyLine);
  EXPECT_EQ(gpios[2], 0U) << "active high";
}

TEST(DeviceTreeTest, ChosenCarriesWhatTheKernelIsTold) {
  auto config = small();
  config.cmdline = std::string(2047, 'c');
  config.initrd = {0x4800'0000, 0x4812'3456};
  config.rng_seed.fill(std::byte{0xa5});
  config.kaslr_seed.fill(std::byte{0x5a});
  const auto fdt = build(config);
  EXPECT_EQ(fdt.text("/chosen", "bootargs"), config.cmdline);
  EXPECT_TRUE(fdt.has_node(fdt.text("/chosen", "stdout-path")));
  EXPECT_THAT(fdt.u64s("/chosen", "linux,initrd-start"), ElementsAre(0x4800'0000));
  EXPECT_THAT(fdt.u64s("/chosen", "linux,initrd-end"), ElementsAre(0x4812'3456));
  EXPECT_EQ(fdt.raw("/chosen", "rng-seed"), std::string(32, '\xa5'));
  EXPECT_EQ(fdt.raw("/chosen", "kaslr-seed"), std::string(8, '\x5a'));
  EXPECT_FALSE(build(small()).has("/chosen", "linux,initrd-start"));
}

TEST(DeviceTreeTest, NoTwoNodesShareAnInterrupt) {
  auto config = small();
  config.pmu = true;
  const auto fdt = build(config);
  std::set<std::uint32_t> intids;
  for (const auto& path : fdt.nodes()) {
    if (!fdt.has(path, "interrupts")) continue;
    const auto cells = fdt.cells(path, "interrupts");
    for (std::size_t i = 0; i + 3 <= cells.size(); i += 3) {
      const auto intid = cells[i + 1] + (cells[i] == 0 ? 32 : 16);
      EXPECT_TRUE(intids.insert(intid).second) << path << ", INTID " << intid;
    }
  }
  EXPECT_EQ(intids.size(), 4U + 1 + 3);
}

TEST(FdtWriterTest, TooMuchForTheWriterIsAnError) {
  FdtWriter fdt;
  fdt.begin_node("");
  for (int i = 0; i < 40; ++i) fdt.property("large", std::string(2000, 'x'));
  fdt.end_node();
  expect_error(fdt.finish(), ErrorKind::kFailed, "device tree");
}

TEST(FdtWriterTest, NodesThatDoNotMatchAreAnError) {
  FdtWriter open;
  open.begin_node("");
  expect_error(open.finish(), ErrorKind::kFailed, "device tree");
  FdtWriter closed;
  closed.begin_node("");
  closed.end_node();
  closed.end_node();
  expect_error(closed.finish(), ErrorKind::kFailed, "device tree");
}

TEST(DeviceTreeTest, EachVirtioSlotHasAWindowAndAnEdgeTriggeredInterruptOfItsOwn) {
  auto config = small();
  config.virtio_slots = layout::kVirtioSlots;
  const auto fdt = build(config);
  std::set<std::uint32_t> interrupts;
  for (unsigned slot = 0; slot < config.virtio_slots; ++slot) {
    const std::uint64_t base = 0x0a00'0000 + slot * 0x200ULL;
    const auto path = fmt::format("/virtio_mmio@{:x}", base);
    EXPECT_EQ(fdt.text(path, "compatible"), "virtio,mmio");
    EXPECT_THAT(fdt.u64s(path, "reg"), ElementsAre(base, 0x200));
    EXPECT_TRUE(fdt.has(path, "dma-coherent"));
    const auto interrupt = fdt.cells(path, "interrupts");
    EXPECT_THAT(interrupt, ElementsAre(0, 16 + slot, 1));
    interrupts.insert(interrupt[1]);
  }
  EXPECT_EQ(interrupts.size(), layout::kVirtioSlots);
  EXPECT_LT(*interrupts.rbegin(), layout::kSpiCount);
  EXPECT_FALSE(build(small()).has_node("/virtio_mmio@a000000"));
}

}  // namespace
}  // namespace vmm
