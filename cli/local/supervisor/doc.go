// SPDX-License-Identifier: Apache-2.0

// Package supervisor keeps a local cluster's machines running after the command that
// asked for them has returned: one process in the background, that has the machines,
// their network and what is served on it, and a socket by which commands talk to it.
//
// Everything that it runs ends when it ends, however it ends: QEMU and swtpm are killed
// by the kernel with their parent, the network and the forwards are in this process. It
// keeps all files in the cluster's folder, so that removing the folder removes the
// cluster. What a folder holds is in dir.go.
//
// # Trust
//
// Whoever can open the socket owns the cluster's machines: it has mode 0600, in a
// folder with mode 0700. Machines are not trusted: what they print is kept within a
// limit and shown without control characters, and what is served to them has no
// secrets in it.
//
// # Not guaranteed
//
// That a machine's operating system is well: that is the node's to say, on the attested
// channel.
package supervisor
