#include "vmm/guest_config.h"

#include <array>

#include "vmm_support.h"

namespace vmm {
namespace {

constexpr auto kFile = "/etc/guests/web.cfg";
constexpr std::uint64_t kMiB = 1 << 20;

TEST(GuestConfigTest, ReadsEveryKey) {
  const auto config = parse_guest_config(R"(
name = "web-1.example_2"
vcpus = 16
memory = "1T"
backing = "hugetlb"
[boot]
kernel = "images/Image"
initrd = "/boot/initrd.gz"
cmdline = "console=ttyAMA0 quiet"
[cpu]
features = ["pmu", "sve", "pauth"]
[console]
file = "web.log"
)",
                                         kFile);
  ASSERT_TRUE(config) << config.error().message();
  const auto& guest = config.value();
  EXPECT_EQ(guest.name, "web-1.example_2");
  EXPECT_EQ(guest.vcpus, 16U);
  EXPECT_EQ(guest.memory, 1ULL << 40);
  EXPECT_TRUE(guest.hugetlb);
  EXPECT_EQ(guest.boot.kernel, "/etc/guests/images/Image") << "relative to the configuration";
  EXPECT_EQ(guest.boot.initrd, "/boot/initrd.gz") << "absolute, and so as it is";
  EXPECT_EQ(guest.boot.cmdline, "console=ttyAMA0 quiet");
  EXPECT_TRUE(guest.cpu.sve && guest.cpu.pauth && guest.cpu.pmu);
  EXPECT_EQ(guest.console_file, "/etc/guests/web.log");
}

TEST(GuestConfigTest, NeedsMemoryAndKernelOnly) {
  const auto config = parse_guest_config("memory = '32M'\nboot.kernel = 'k'", "web.cfg");
  ASSERT_TRUE(config) << config.error().message();
  const auto& guest = config.value();
  EXPECT_EQ(guest.name, "web") << "the file's name";
  EXPECT_EQ(guest.vcpus, 1U);
  EXPECT_EQ(guest.memory, 32 * kMiB);
  EXPECT_FALSE(guest.hugetlb);
  EXPECT_EQ(guest.boot.kernel, "k") << "relative to the working directory, as the file is";
  EXPECT_FALSE(guest.boot.initrd);
  EXPECT_EQ(guest.boot.cmdline, "");
  EXPECT_FALSE(guest.cpu.sve || guest.cpu.pauth || guest.cpu.pmu);
  EXPECT_FALSE(guest.console_file);
}

TEST(GuestConfigTest, EachFeatureTurnsOnItselfAlone) {
  struct Case {
    const char* feature;
    bool GuestConfig::Cpu::*member;
  };
  const std::array cases{Case{"sve", &GuestConfig::Cpu::sve},
                         Case{"pauth", &GuestConfig::Cpu::pauth},
                         Case{"pmu", &GuestConfig::Cpu::pmu}};
  for (const auto& wanted : cases) {
    const auto config = parse_guest_config(
        fmt::format("memory='32M'\nboot.kernel='k'\ncpu.features=['{}']", wanted.feature), kFile);
    ASSERT_TRUE(config) << config.error().message();
    for (const auto& other : cases) {
      EXPECT_EQ(config.value().cpu.*(other.member), other.member == wanted.member)
          << wanted.feature << ", " << other.feature;
    }
  }
}

struct Bad {
  const char* name;
  std::string text;
  std::string message;  // after the file's name
};

class BadConfigTest : public ::testing::TestWithParam<Bad> {};

TEST_P(BadConfigTest, IsRefusedWithItsPlace) {
  const auto config = parse_guest_config(GetParam().text, kFile);
  ASSERT_FALSE(config) << GetParam().text;
  EXPECT_EQ(config.error().kind(), ErrorKind::kUsage);
  EXPECT_EQ(config.error().message(), kFile + (":" + GetParam().message));
}

constexpr auto name_of = [](const auto& test) { return std::string(test.param.name); };

// What a file needs beyond the key under test, which comes first (root) or last (a table).
const std::string kRest = "memory = '64M'\n[boot]\nkernel = 'k'\n";

INSTANTIATE_TEST_SUITE_P(
    UnknownKeys, BadConfigTest,
    ::testing::Values(Bad{"root", "vcpu = 2\n" + kRest, "1:1: unknown key vcpu"},
                      Bad{"indented", "  vcpu = 2\n" + kRest, "1:3: unknown key vcpu"},
                      Bad{"boot", kRest + "dtb = 'x'\n", "4:1: unknown key boot.dtb"},
                      Bad{"cpu", kRest + "[cpu]\ncount = 2\n", "5:1: unknown key cpu.count"},
                      Bad{"console", kRest + "[console]\nlog = 'x'\n",
                          "5:1: unknown key console.log"},
                      Bad{"table", kRest + "[gpu]\n", "4:2: unknown key gpu"},
                      Bad{"list_of_tables", kRest + "[[gpu]]\nid = 'a'\n", "4:3: unknown key gpu"},
                      Bad{"upper_case", "Memory = '64M'\n" + kRest, "1:1: unknown key Memory"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    WrongTypes, BadConfigTest,
    ::testing::Values(
        Bad{"name", "name = 5\n" + kRest, "1:8: name is not a string"},
        Bad{"vcpus_text", "vcpus = '2'\n" + kRest, "1:9: vcpus is not an integer"},
        Bad{"vcpus_fraction", "vcpus = 2.0\n" + kRest, "1:9: vcpus is not an integer"},
        Bad{"vcpus_truth", "vcpus = true\n" + kRest, "1:9: vcpus is not an integer"},
        Bad{"memory", "memory = 64\nboot.kernel = 'k'", "1:10: memory is not a string"},
        Bad{"backing", "backing = false\n" + kRest, "1:11: backing is not a string"},
        Bad{"boot", "memory = '64M'\nboot = 'k'", "2:8: boot is not a table"},
        Bad{"boot_list", "memory = '64M'\n[[boot]]\nkernel = 'k'", "2:1: boot is not a table"},
        Bad{"kernel", "memory = '64M'\n[boot]\nkernel = 1", "3:10: boot.kernel is not a string"},
        Bad{"initrd", kRest + "initrd = ['a']", "4:10: boot.initrd is not a string"},
        Bad{"cmdline", kRest + "cmdline = 1979-05-27", "4:11: boot.cmdline is not a string"},
        Bad{"cpu", "cpu = 1\n" + kRest, "1:7: cpu is not a table"},
        Bad{"features", kRest + "[cpu]\nfeatures = 'sve'",
            "5:12: cpu.features is not a list of strings"},
        Bad{"feature", kRest + "[cpu]\nfeatures = ['sve', 7]",
            R"(5:20: cpu.features takes "sve", "pauth" and "pmu" only)"},
        Bad{"console", "console = 'x'\n" + kRest, "1:11: console is not a table"},
        Bad{"console_file", kRest + "[console]\nfile = 3", "5:8: console.file is not a string"}),
    name_of);

const std::string kBadSize = R"(1:10: memory is not a size such as "512M" or "2G")";
const std::string kBadMemory = R"(1:10: memory must be a multiple of 2M from "32M" to "1T")";

std::string memory(const std::string& size) {
  return "memory = '" + size + "'\nboot.kernel = 'k'";
}

INSTANTIATE_TEST_SUITE_P(
    Values, BadConfigTest,
    ::testing::Values(
        Bad{"no_vcpu", "vcpus = 0\n" + kRest, "1:9: vcpus must be 1 to 16"},
        Bad{"negative_vcpus", "vcpus = -1\n" + kRest, "1:9: vcpus must be 1 to 16"},
        Bad{"17_vcpus", "vcpus = 17\n" + kRest, "1:9: vcpus must be 1 to 16"},
        Bad{"2_to_32_and_1_vcpus", "vcpus = 4294967297\n" + kRest, "1:9: vcpus must be 1 to 16"},
        Bad{"too_little_memory", memory("30M"), kBadMemory},
        Bad{"too_much_memory", memory("1048578M"), kBadMemory},
        Bad{"odd_memory", memory("33M"), kBadMemory}, Bad{"no_memory", memory("0"), kBadMemory},
        Bad{"memory_in_words", memory("lots"), kBadSize},
        Bad{"overflowing_memory", memory("99999999999T"), kBadSize},
        Bad{"backing", "backing = 'file'\n" + kRest,
            R"(1:11: backing must be "anonymous" or "hugetlb")"},
        Bad{"feature", kRest + "[cpu]\nfeatures = ['sme']",
            R"(5:13: cpu.features takes "sve", "pauth" and "pmu" only)"},
        Bad{"kernel_without_name", "memory = '64M'\n[boot]\nkernel = ''",
            "3:10: boot.kernel is empty"},
        Bad{"initrd_without_name", kRest + "initrd = ''", "4:10: boot.initrd is empty"},
        Bad{"console_without_name", kRest + "[console]\nfile = ''", "5:8: console.file is empty"},
        Bad{"kernel_with_zero", "memory = '64M'\n[boot]\nkernel = \"a\\u0000b\"",
            "3:10: boot.kernel contains a zero character"},
        Bad{"initrd_with_zero", kRest + "initrd = \"a\\u0000b\"",
            "4:10: boot.initrd contains a zero character"},
        Bad{"console_with_zero", kRest + "[console]\nfile = \"\\u0000\"",
            "5:8: console.file contains a zero character"},
        Bad{"cmdline_with_zero", kRest + "cmdline = \"a\\u0000b\"",
            "4:11: boot.cmdline contains a zero character"},
        Bad{"long_cmdline", kRest + "cmdline = '" + std::string(2048, 'x') + "'",
            "4:11: boot.cmdline is longer than the 2047 characters that the kernel takes"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(Missing, BadConfigTest,
                         ::testing::Values(Bad{"everything", "", " memory is missing"},
                                           Bad{"memory", "[boot]\nkernel = 'k'",
                                               " memory is missing"},
                                           Bad{"boot", "memory = '64M'", " boot.kernel is missing"},
                                           Bad{"kernel", "memory = '64M'\n[boot]\ninitrd = 'i'",
                                               " boot.kernel is missing"}),
                         name_of);

TEST(GuestConfigTest, SyntaxErrorsNameTheirLine) {
  struct Case {
    const char* text;
    const char* place;
  };
  for (const auto& [text, place] :
       {Case{"vcpus = \n", ":1:"}, Case{"memory = '64M'\nvcpus = 1\nvcpus = 2\n", ":3:"},
        Case{"memory = '64M\n", ":1:"}, Case{"memory = '64M'\n[boot\n", ":2:"}}) {
    const auto config = parse_guest_config(text, kFile);
    ASSERT_FALSE(config) << text;
    EXPECT_EQ(config.error().kind(), ErrorKind::kUsage);
    EXPECT_THAT(config.error().message(), ::testing::StartsWith(kFile + std::string(place)));
  }
}

TEST(GuestConfigTest, CharactersBeyondAsciiStandInStringsOnly) {
  for (const char* character : {"\u00a1", "\u00e4", "\u0492", "\u1680", "\u2030", "\ufefe"}) {
    const auto text = std::string("memory = '32M'\nboot.kernel = '") + character + "'\n";
    EXPECT_TRUE(parse_guest_config(text, kFile)) << character;
    for (const std::string& bad :
         {text + "n" + character + " = 1", text + "n = " + character, character + text}) {
      EXPECT_FALSE(parse_guest_config(bad, kFile)) << bad;
    }
  }
}

TEST(GuestConfigTest, DeepNestingIsASyntaxErrorOnly) {
  const auto config = parse_guest_config("a = " + std::string(100'000, '['), kFile);
  expect_error(config, ErrorKind::kUsage, kFile);
}

TEST(GuestConfigTest, TheLongestCommandLineIsTaken) {
  const std::string longest(2047, 'x');
  const auto config = parse_guest_config(kRest + "cmdline = '" + longest + "'", kFile);
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config.value().boot.cmdline, longest);
}

TEST(GuestConfigTest, NamesThatCannotBeFileNamesAreRefused) {
  for (const std::string name : {"a", "7", "web1", "A.b_c-d", "x..",
                                 "0123456789012345678901234567890123456789012345678901234"
                                 "567890123"}) {
    EXPECT_TRUE(check_guest_name(name)) << name;
  }
  for (const std::string& name :
       {std::string(), std::string(65, 'a'), std::string("-x"), std::string(".x"),
        std::string("..", 2), std::string("_x"), std::string("a/b"), std::string("a b"),
        std::string("a\0b", 3), std::string("\xc3\xbc"), std::string("a\n"), std::string("a:b")}) {
    expect_error(check_guest_name(name), ErrorKind::kUsage, "1 to 64 letters");
  }
}

TEST(GuestConfigTest, ABadNameIsRefusedAtItsPlace) {
  expect_error(parse_guest_config("name = '../x'\n" + kRest, kFile), ErrorKind::kUsage,
               kFile + std::string(":1:8: name must be 1 to 64 letters"));
  expect_error(parse_guest_config(kRest, "/etc/-web.cfg"), ErrorKind::kUsage,
               "/etc/-web.cfg: name is missing, and the file's own name must be");
  EXPECT_TRUE(parse_guest_config("name = 'web'\n" + kRest, "/etc/-web.cfg"));
}

TEST(ParseSizeTest, TakesNumbersWithASuffix) {
  struct Case {
    const char* text;
    std::uint64_t bytes;
  };
  for (const auto& [text, bytes] :
       {Case{"0", 0}, Case{"1", 1}, Case{"4096", 4096}, Case{"3K", 3 << 10},
        Case{"512M", 512 * kMiB}, Case{"2G", 2ULL << 30}, Case{"1T", 1ULL << 40},
        Case{"18446744073709551615", ~0ULL}, Case{"16777215T", 16777215ULL << 40}}) {
    const auto size = parse_size(text);
    ASSERT_TRUE(size) << text;
    EXPECT_EQ(size.value(), bytes) << text;
  }
  for (const auto* text : {"", "M", "-1", "+1", " 1", "1 M", "1m", "1MB", "1.5G", "0x10", "1P",
                           "18446744073709551616", "16777216T", "99999999999999999999G"}) {
    expect_error(parse_size(text), ErrorKind::kUsage, "is not a size");
  }
}

TEST(LoadGuestConfigTest, ReadsAFile) {
  const TempDir dir;
  const auto config = load_guest_config(dir.file("shop.cfg", kRest));
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config.value().name, "shop");
  EXPECT_EQ(config.value().boot.kernel, dir / "k");
}

TEST(LoadGuestConfigTest, FilesThatCannotBeReadAreUsageErrors) {
  const TempDir dir;
  expect_error(load_guest_config(dir / "none.cfg"), ErrorKind::kUsage, "none.cfg");
  expect_error(load_guest_config(dir.path()), ErrorKind::kUsage, dir.path().string());
  const auto large = dir.file("large.cfg", "#" + std::string(1 << 20, ' ') + "\n" + kRest);
  expect_error(load_guest_config(large), ErrorKind::kUsage, "large.cfg");
}

}  // namespace
}  // namespace vmm
