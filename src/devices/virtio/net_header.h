#pragma once

// The kernel's definitions of virtio-net. One of its structures has a member called `class`, which
// is not C++; what the header includes comes first, so that nothing else is renamed.
#include <linux/if_ether.h>
#include <linux/types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_types.h>
#define VIRTIO_NET_NO_LEGACY
#define class device_class
#include <linux/virtio_net.h>
#undef class
