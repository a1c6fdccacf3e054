#pragma once

// The kernel's definitions of split virtqueues, without the helpers for legacy drivers, which are
// not C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>
