#pragma once

// KVM_CAP_ARM_HW_DIRTY_LOG of this project's kernel series (docs/kernel-abi.md), for kernel headers
// that do not carry it.

#ifndef KVM_CAP_ARM_HW_DIRTY_LOG
#define KVM_CAP_ARM_HW_DIRTY_LOG 0x44424d00
#define KVM_ARM_DIRTY_LOG_WRPROT 0
#define KVM_ARM_DIRTY_LOG_HW 1
#endif
