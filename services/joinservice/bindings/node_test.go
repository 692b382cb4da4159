// SPDX-License-Identifier: Apache-2.0

package bindings

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/constellation-os/constellation/disk"
)

func someNode() *Node {
	return &Node{
		Device: "endorsement-key-sha256/abcd", Name: "worker-1", Role: "worker", Address: "10.0.0.7",
		Disk: "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283", KeyVersion: 2, Known: disk.Generation{}.After(),
		Ticket: NewTicket(time.Now(), time.Minute),
	}
}

func TestNodeIsKeptWhole(t *testing.T) {
	for _, known := range []disk.Generation{{}, {Number: 7, ID: strings.Repeat("ab", 16)}} {
		n := someNode()
		n.Known = known
		got, err := parseNode(n.object())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(n, got, cmpopts.IgnoreUnexported(Node{})); diff != "" {
			t.Error(diff)
		}
	}
}

// TestObjectsThatSomebodyChanged: what is not understood is refused, never taken for
// nothing: a generation that cannot be read is not the one before the first.
func TestObjectsThatSomebodyChanged(t *testing.T) {
	for name, tc := range map[string]struct{ field, value, says string }{
		"a generation without an id":  {fieldGeneration, "7", "32 hexadecimal digits"},
		"a generation of zero":        {fieldGeneration, "0/" + strings.Repeat("ab", 16), "from 1 on"},
		"a generation that is a word": {fieldGeneration, "newest", "invalid syntax"},
		"a version that is none":      {fieldKeyVersion, "", "key_version"},
		"a date that is none":         {fieldExpires, "tomorrow", "ticket_expires"},
		"used or not":                 {fieldUsed, "", "ticket_used"},
		"another's device":            {fieldDevice, "endorsement-key-sha256/ef01", "not of the device"},
	} {
		o := someNode().object()
		o.Data = maps.Clone(o.Data)
		o.Data[tc.field] = tc.value
		if n, err := parseNode(o); err == nil || n != nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckDisk(t *testing.T) {
	if err := CheckDisk("6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "6f1a3c0e", "6F1A3C0E-8d2b-4f57-9a64-1b0c7de5f283", "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283\n", "../6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f2"} {
		if CheckDisk(bad) == nil {
			t.Errorf("%q is a disk's name", bad)
		}
	}
}
