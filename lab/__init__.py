"""Emulated arm64 hosts for vmm: artifacts (kernel, sysroot, images), machines, and their command line."""
