#include "kvm/id_registers.h"

#include <fmt/format.h>

#include <algorithm>

#include "kvm/register_id.h"

namespace vmm::kvm {
namespace {

struct Known {
  std::uint64_t id;
  std::string_view name;
  std::span<const IdField> fields;
};

constexpr std::uint64_t firmware(unsigned number) {
  return kRegisterArm64 | kRegisterU64 | 0x14'0000ULL | number;
}
constexpr std::uint64_t firmware_features(unsigned number) {
  return kRegisterArm64 | kRegisterU64 | 0x16'0000ULL | number;
}

// Arm ARM (DDI 0487), section D23.2 "General system control registers".
constexpr IdField kPfr0[] = {{"EL0", 0, 4},  {"EL1", 4, 4},      {"EL2", 8, 4},   {"EL3", 12, 4},
                             {"FP", 16, 4},  {"AdvSIMD", 20, 4}, {"GIC", 24, 4},  {"RAS", 28, 4},
                             {"SVE", 32, 4}, {"SEL2", 36, 4},    {"MPAM", 40, 4}, {"AMU", 44, 4},
                             {"DIT", 48, 4}, {"RME", 52, 4},     {"CSV2", 56, 4}, {"CSV3", 60, 4}};
constexpr IdField kPfr1[] = {{"BT", 0, 4},         {"SSBS", 4, 4},       {"MTE", 8, 4},
                             {"RAS_frac", 12, 4},  {"MPAM_frac", 16, 4}, {"SME", 24, 4},
                             {"RNDR_trap", 28, 4}, {"CSV2_frac", 32, 4}, {"NMI", 36, 4},
                             {"MTE_frac", 40, 4},  {"GCS", 44, 4},       {"THE", 48, 4},
                             {"MTEX", 52, 4},      {"DF2", 56, 4},       {"PFAR", 60, 4}};
constexpr IdField kPfr2[] = {
    {"MTEPERM", 0, 4}, {"MTESTOREONLY", 4, 4}, {"MTEFAR", 8, 4}, {"FPMR", 32, 4}};
constexpr IdField kZfr0[] = {
    {"SVEver", 0, 4}, {"AES", 4, 4},  {"BitPerm", 16, 4}, {"BF16", 20, 4},  {"B16B16", 24, 4},
    {"SHA3", 32, 4},  {"SM4", 40, 4}, {"I8MM", 44, 4},    {"F32MM", 52, 4}, {"F64MM", 56, 4}};
constexpr IdField kSmfr0[] = {
    {"SF8DP2", 28, 1}, {"SF8DP4", 29, 1}, {"SF8FMA", 30, 1}, {"F32F32", 32, 1}, {"BI32I32", 33, 1},
    {"B16F32", 34, 1}, {"F16F32", 35, 1}, {"I8I32", 36, 4},  {"F8F32", 40, 1},  {"F8F16", 41, 1},
    {"F16F16", 42, 1}, {"B16B16", 43, 1}, {"I16I32", 44, 4}, {"F64F64", 48, 1}, {"I16I64", 52, 4},
    {"SMEver", 56, 4}, {"LUTv2", 60, 1},  {"FA64", 63, 1}};
constexpr IdField kFpfr0[] = {{"F8E5M2", 0, 1}, {"F8E4M3", 1, 1}, {"F8DP2", 28, 1},
                              {"F8DP4", 29, 1}, {"F8FMA", 30, 1}, {"F8CVT", 31, 1}};
constexpr IdField kDfr0[] = {{"DebugVer", 0, 4},     {"TraceVer", 4, 4},    {"PMUVer", 8, 4},
                             {"BRPs", 12, 4},        {"WRPs", 20, 4},       {"CTX_CMPs", 28, 4},
                             {"PMSVer", 32, 4},      {"DoubleLock", 36, 4}, {"TraceFilt", 40, 4},
                             {"TraceBuffer", 44, 4}, {"MTPMU", 48, 4},      {"BRBE", 52, 4},
                             {"ExtTrcBuff", 56, 4},  {"HPMN0", 60, 4}};
constexpr IdField kDfr1[] = {{"SYSPMUID", 0, 8},  {"BRPs", 8, 8},     {"WRPs", 16, 8},
                             {"CTX_CMPs", 24, 8}, {"SPMU", 32, 4},    {"PMICNTR", 36, 4},
                             {"ABLE", 40, 4},     {"ITE", 44, 4},     {"EBEP", 48, 4},
                             {"DPFZS", 52, 4},    {"ABL_CMPs", 56, 8}};
constexpr IdField kIsar0[] = {{"AES", 4, 4},     {"SHA1", 8, 4}, {"SHA2", 12, 4}, {"CRC32", 16, 4},
                              {"ATOMIC", 20, 4}, {"TME", 24, 4}, {"RDM", 28, 4},  {"SHA3", 32, 4},
                              {"SM3", 36, 4},    {"SM4", 40, 4}, {"DP", 44, 4},   {"FHM", 48, 4},
                              {"TS", 52, 4},     {"TLB", 56, 4}, {"RNDR", 60, 4}};
constexpr IdField kIsar1[] = {
    {"DPB", 0, 4},      {"APA", 4, 4},    {"API", 8, 4},      {"JSCVT", 12, 4},
    {"FCMA", 16, 4},    {"LRCPC", 20, 4}, {"GPA", 24, 4},     {"GPI", 28, 4},
    {"FRINTTS", 32, 4}, {"SB", 36, 4},    {"SPECRES", 40, 4}, {"BF16", 44, 4},
    {"DGH", 48, 4},     {"I8MM", 52, 4},  {"XS", 56, 4},      {"LS64", 60, 4}};
constexpr IdField kIsar2[] = {{"WFxT", 0, 4},          {"RPRES", 4, 4},    {"GPA3", 8, 4},
                              {"APA3", 12, 4},         {"MOPS", 16, 4},    {"BC", 20, 4},
                              {"PAC_frac", 24, 4},     {"CLRBHB", 28, 4},  {"SYSREG_128", 32, 4},
                              {"SYSINSTR_128", 36, 4}, {"PRFMSLC", 40, 4}, {"RPRFM", 48, 4},
                              {"CSSC", 52, 4},         {"LUT", 56, 4},     {"ATS1A", 60, 4}};
constexpr IdField kIsar3[] = {{"CPA", 0, 4}, {"FAMINMAX", 4, 4}, {"TLBIW", 8, 4}, {"PACM", 12, 4}};
constexpr IdField kMmfr0[] = {{"PARANGE", 0, 4},    {"ASIDBITS", 4, 4},   {"BIGEND", 8, 4},
                              {"SNSMEM", 12, 4},    {"BIGENDEL0", 16, 4}, {"TGRAN16", 20, 4},
                              {"TGRAN64", 24, 4},   {"TGRAN4", 28, 4},    {"TGRAN16_2", 32, 4},
                              {"TGRAN64_2", 36, 4}, {"TGRAN4_2", 40, 4},  {"EXS", 44, 4},
                              {"FGT", 56, 4},       {"ECV", 60, 4}};
constexpr IdField kMmfr1[] = {
    {"HAFDBS", 0, 4},  {"VMIDBits", 4, 4}, {"VH", 8, 4},       {"HPDS", 12, 4},
    {"LO", 16, 4},     {"PAN", 20, 4},     {"SpecSEI", 24, 4}, {"XNX", 28, 4},
    {"TWED", 32, 4},   {"ETS", 36, 4},     {"HCX", 40, 4},     {"AFP", 44, 4},
    {"nTLBPA", 48, 4}, {"TIDCP1", 52, 4},  {"CMOW", 56, 4},    {"ECBHB", 60, 4}};
constexpr IdField kMmfr2[] = {{"CnP", 0, 4},      {"UAO", 4, 4},    {"LSM", 8, 4},  {"IESB", 12, 4},
                              {"VARange", 16, 4}, {"CCIDX", 20, 4}, {"NV", 24, 4},  {"ST", 28, 4},
                              {"AT", 32, 4},      {"IDS", 36, 4},   {"FWB", 40, 4}, {"TTL", 48, 4},
                              {"BBM", 52, 4},     {"EVT", 56, 4},   {"E0PD", 60, 4}};
constexpr IdField kMmfr3[] = {
    {"TCRX", 0, 4},   {"SCTLRX", 4, 4}, {"S1PIE", 8, 4},  {"S2PIE", 12, 4}, {"S1POE", 16, 4},
    {"S2POE", 20, 4}, {"AIE", 24, 4},   {"MEC", 28, 4},   {"D128", 32, 4},  {"D128_2", 36, 4},
    {"SNERR", 40, 4}, {"ANERR", 44, 4}, {"SDERR", 52, 4}, {"ADERR", 56, 4}, {"Spec_FPACC", 60, 4}};
constexpr IdField kMmfr4[] = {{"EIESB", 4, 4},   {"ASID2", 8, 4},    {"HACDBS", 12, 4},
                              {"FGWTE3", 16, 4}, {"NV_frac", 20, 4}, {"E2H0", 24, 4},
                              {"E3DSE", 36, 4}};
constexpr IdField kCtr[] = {{"IminLine", 0, 4}, {"L1Ip", 14, 2},    {"DminLine", 16, 4},
                            {"ERG", 20, 4},     {"CWG", 24, 4},     {"IDC", 28, 1},
                            {"DIC", 29, 1},     {"TminLine", 32, 6}};

constexpr Known kKnown[] = {
    {system_register(3, 0, 0, 0, 0), "MIDR_EL1", {}},
    {system_register(3, 0, 0, 0, 6), "REVIDR_EL1", {}},
    {system_register(3, 1, 0, 0, 1), "CLIDR_EL1", {}},
    {system_register(3, 1, 0, 0, 7), "AIDR_EL1", {}},
    {system_register(3, 0, 0, 1, 0), "ID_PFR0_EL1", {}},
    {system_register(3, 0, 0, 1, 1), "ID_PFR1_EL1", {}},
    {system_register(3, 0, 0, 1, 2), "ID_DFR0_EL1", {}},
    {system_register(3, 0, 0, 1, 3), "ID_AFR0_EL1", {}},
    {system_register(3, 0, 0, 1, 4), "ID_MMFR0_EL1", {}},
    {system_register(3, 0, 0, 1, 5), "ID_MMFR1_EL1", {}},
    {system_register(3, 0, 0, 1, 6), "ID_MMFR2_EL1", {}},
    {system_register(3, 0, 0, 1, 7), "ID_MMFR3_EL1", {}},
    {system_register(3, 0, 0, 2, 0), "ID_ISAR0_EL1", {}},
    {system_register(3, 0, 0, 2, 1), "ID_ISAR1_EL1", {}},
    {system_register(3, 0, 0, 2, 2), "ID_ISAR2_EL1", {}},
    {system_register(3, 0, 0, 2, 3), "ID_ISAR3_EL1", {}},
    {system_register(3, 0, 0, 2, 4), "ID_ISAR4_EL1", {}},
    {system_register(3, 0, 0, 2, 5), "ID_ISAR5_EL1", {}},
    {system_register(3, 0, 0, 2, 6), "ID_MMFR4_EL1", {}},
    {system_register(3, 0, 0, 2, 7), "ID_ISAR6_EL1", {}},
    {system_register(3, 0, 0, 3, 0), "MVFR0_EL1", {}},
    {system_register(3, 0, 0, 3, 1), "MVFR1_EL1", {}},
    {system_register(3, 0, 0, 3, 2), "MVFR2_EL1", {}},
    {system_register(3, 0, 0, 3, 4), "ID_PFR2_EL1", {}},
    {system_register(3, 0, 0, 3, 5), "ID_DFR1_EL1", {}},
    {system_register(3, 0, 0, 3, 6), "ID_MMFR5_EL1", {}},
    {system_register(3, 0, 0, 4, 0), "ID_AA64PFR0_EL1", kPfr0},
    {system_register(3, 0, 0, 4, 1), "ID_AA64PFR1_EL1", kPfr1},
    {system_register(3, 0, 0, 4, 2), "ID_AA64PFR2_EL1", kPfr2},
    {system_register(3, 0, 0, 4, 4), "ID_AA64ZFR0_EL1", kZfr0},
    {system_register(3, 0, 0, 4, 5), "ID_AA64SMFR0_EL1", kSmfr0},
    {system_register(3, 0, 0, 4, 7), "ID_AA64FPFR0_EL1", kFpfr0},
    {system_register(3, 0, 0, 5, 0), "ID_AA64DFR0_EL1", kDfr0},
    {system_register(3, 0, 0, 5, 1), "ID_AA64DFR1_EL1", kDfr1},
    {system_register(3, 0, 0, 6, 0), "ID_AA64ISAR0_EL1", kIsar0},
    {system_register(3, 0, 0, 6, 1), "ID_AA64ISAR1_EL1", kIsar1},
    {system_register(3, 0, 0, 6, 2), "ID_AA64ISAR2_EL1", kIsar2},
    {system_register(3, 0, 0, 6, 3), "ID_AA64ISAR3_EL1", kIsar3},
    {system_register(3, 0, 0, 7, 0), "ID_AA64MMFR0_EL1", kMmfr0},
    {system_register(3, 0, 0, 7, 1), "ID_AA64MMFR1_EL1", kMmfr1},
    {system_register(3, 0, 0, 7, 2), "ID_AA64MMFR2_EL1", kMmfr2},
    {system_register(3, 0, 0, 7, 3), "ID_AA64MMFR3_EL1", kMmfr3},
    {system_register(3, 0, 0, 7, 4), "ID_AA64MMFR4_EL1", kMmfr4},
    {system_register(3, 3, 0, 0, 1), "CTR_EL0", kCtr},
    {firmware(0), "KVM_REG_ARM_PSCI_VERSION", {}},
    {firmware(1), "KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1", {}},
    {firmware(2), "KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2", {}},
    {firmware(3), "KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_3", {}},
    {firmware_features(0), "KVM_REG_ARM_STD_BMAP", {}},
    {firmware_features(1), "KVM_REG_ARM_STD_HYP_BMAP", {}},
    {firmware_features(2), "KVM_REG_ARM_VENDOR_HYP_BMAP", {}},
};

const Known* find(std::uint64_t id) {
  const auto* const found = std::ranges::find(kKnown, id, &Known::id);
  return found == std::end(kKnown) ? nullptr : found;
}

// The parts of a system register's encoding.
struct Encoding {
  explicit Encoding(std::uint64_t id)
      : op0(static_cast<unsigned>(id >> 14 & 0x3)),
        op1(static_cast<unsigned>(id >> 11 & 0x7)),
        crn(static_cast<unsigned>(id >> 7 & 0xf)),
        crm(static_cast<unsigned>(id >> 3 & 0xf)),
        op2(static_cast<unsigned>(id & 0x7)) {}

  unsigned op0, op1, crn, crm, op2;
};

}  // namespace

bool is_identity_register(std::uint64_t id) {
  switch (register_family(id)) {
    case RegisterFamily::kDemux:
    case RegisterFamily::kFirmware:
    case RegisterFamily::kFirmwareFeatures:
      return true;
    case RegisterFamily::kSystem: {
      const Encoding encoding(id);
      // All of them have CRn = 0, and nearly no other register does.
      if (encoding.op0 != 3 || encoding.crn != 0) return false;
      const bool allocated_for_ids = encoding.op1 == 0 && encoding.crm >= 1 && encoding.crm <= 7;
      return allocated_for_ids || find(id) != nullptr;
    }
    default:
      return false;
  }
}

std::string register_name(std::uint64_t id) {
  if (const auto* known = find(id)) return std::string(known->name);
  switch (register_family(id)) {
    case RegisterFamily::kSystem: {
      const Encoding encoding(id);
      return fmt::format("S{}_{}_C{}_C{}_{}", encoding.op0, encoding.op1, encoding.crn,
                         encoding.crm, encoding.op2);
    }
    case RegisterFamily::kDemux:
      return fmt::format("CCSIDR_EL1 of cache {}", id & 0xff);
    default:
      return fmt::format("register {:#018x}", id);
  }
}

std::span<const IdField> id_fields(std::uint64_t id) {
  const auto* known = find(id);
  return known == nullptr ? std::span<const IdField>{} : known->fields;
}

}  // namespace vmm::kvm
