// Keeps an empty virtual machine for as long as the host runs.
//
// With its first virtual machine KVM patches a branch into the scheduler's code, with the last one out
// of it (preempt_notifier_key). QEMU 7.2 may translate an instruction on one processor while
// another one patches it, and then goes on with the old one: KVM is not told that a vCPU's thread runs
// again, and the host hangs in KVM_RUN. With one machine always there, nothing is patched.

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR);

	if (kvm < 0 || ioctl(kvm, KVM_CREATE_VM, 0UL) < 0 || daemon(0, 0) < 0) {
		perror("keep-vm");
		return 1;
	}
	for (;;)
		pause();
}
