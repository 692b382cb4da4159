// SPDX-License-Identifier: Apache-2.0

// Package machine runs one virtual machine of a local cluster on this
// computer: QEMU with a software TPM (swtpm) and UEFI firmware (OVMF), no root
// rights, no libvirt and no KVM needed.
//
// A machine boots a disk image that is never written to, has a second disk for
// what it keeps, a TPM of its own and a private copy of the firmware's variable
// store, shows its serial console and hands over what the guest writes to its named
// virtio-serial ports. Its hardware is the same in every run (fixed PCI addresses,
// nothing that QEMU would add by default), because the firmware measures it:
// [ReadFirmwareConfig] obtains, without booting, the tables that QEMU would hand to
// the firmware.
//
// Nothing outlives the process that called [Start]. QEMU and swtpm talk over
// inherited socket pairs, so there is no socket file; they are killed by the
// kernel when the caller dies, and the machine's temporary folder is removed by
// a keeper process that waits for the last of them. This also holds when the
// caller is killed with SIGKILL.
//
// Trust boundary: the guest is not trusted. What it writes to its console and
// ports is bounded in memory and never interpreted here. The software TPM
// belongs to this computer, so its statements are worth as much as the computer.
//
// Not guaranteed: that a guest makes progress ([Boot] detects a machine that
// does not and starts it afresh), or that swtpm's secrets resist the user that
// runs it.
package machine
