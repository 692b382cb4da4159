// SPDX-License-Identifier: Apache-2.0

// Package adversarytest attacks a cluster's JoinService, and machines that look for one,
// as somebody does who has the network and the host: with real TPMs by the authority that
// the cluster's policy trusts, into which the attack has put what a machine's boot would,
// and with the very code that joins.
//
// Each attack wants the exact reason of its refusal where it was refused and, if the
// cluster's JoinService had to do with it, in that service's audit log. The same attacks
// run against a service in the test's own process, which takes seconds, and against a
// cluster of real machines (//e2e:adversary_test).
//
// It needs swtpm. No program that ships may link it.
package adversarytest
